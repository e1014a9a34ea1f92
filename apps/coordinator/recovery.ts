// What the journal says about the round that a crash interrupted, and the counters that must not fall back.
import type { Assignment, BufferedUpdate } from "../../protocols/index.ts";
import type { DeviceRoundReport } from "../control-messages.ts";
import type { JournalRecord } from "./journal.ts";

/** One device's lane as the journal knows it. */
export interface RecordedLane {
  readonly deviceId: string;
  /** Round and attempt that it began in. */
  readonly round: number;
  readonly attempt: number;
  readonly lane: number;
  readonly assignment: Assignment;
  readonly resumable: boolean;
  readonly uploads: readonly { readonly sequence: number; readonly file: string }[];
  readonly result?: { readonly sequence: number; readonly file: string; readonly weight: number };
  readonly report?: DeviceRoundReport;
}

/** A lane that will be folded in, and where. */
export interface RecordedUpdate {
  readonly recorded: RecordedLane;
  readonly update: BufferedUpdate;
}

/** Where a run stands. */
export interface RunPosition {
  /** The round and attempt to run now, from 1. */
  readonly round: number;
  readonly attempt: number;
  /** Whether that attempt had begun before. */
  readonly isInterrupted: boolean;
  /** Whom that attempt asks; undefined where everyone may come, and before it has begun. */
  readonly cohort: readonly string[] | undefined;
  /** The newest lane of each device in the interrupted attempt, or in an asynchronous run, by device id. */
  readonly lanes: ReadonlyMap<string, RecordedLane>;
  /** What an asynchronous run holds and has not folded, in order of arrival. */
  readonly buffer: readonly RecordedUpdate[];
  /** The highest lane number each device was ever given. */
  readonly lastLanes: ReadonlyMap<string, number>;
  /** The last lane of each device that was folded in or is sure to be. */
  readonly acceptedLanes: ReadonlyMap<string, number>;
  /** Devices that take part and have not heard of the run's end. */
  readonly unaware: readonly string[];
}

/** Where a run stands when an attempt begins that nothing has interrupted. */
export function freshPosition(
  at: Pick<RunPosition, "round" | "attempt">,
  unaware: readonly string[] = [],
): RunPosition {
  const none = new Map<string, never>();
  return {
    ...at,
    isInterrupted: false,
    cohort: undefined,
    lanes: none,
    buffer: [],
    lastLanes: none,
    acceptedLanes: none,
    unaware,
  };
}

/** Replays the journal. Pure. */
export function positionOf(
  records: readonly JournalRecord[],
  { isAsynchronous = false }: { readonly isAsynchronous?: boolean } = {},
): RunPosition {
  const replay = new Replay(isAsynchronous);
  for (const record of records) replay.read(record);
  return replay;
}

class Replay implements RunPosition {
  round = 1;
  attempt = 1;
  isInterrupted = false;
  cohort: readonly string[] | undefined;
  readonly lanes = new Map<string, RecordedLane>();
  buffer: readonly RecordedUpdate[] = [];
  readonly lastLanes = new Map<string, number>();
  readonly acceptedLanes = new Map<string, number>();
  unaware: readonly string[] = [];
  readonly #isAsynchronous: boolean;

  constructor(isAsynchronous: boolean) {
    this.#isAsynchronous = isAsynchronous;
  }

  read(record: JournalRecord): void {
    switch (record.kind) {
      case "round":
        ({ round: this.round, attempt: this.attempt, cohort: this.cohort } = record);
        if (!this.#isAsynchronous) this.lanes.clear();
        this.isInterrupted = true;
        break;
      case "lane":
        this.#openLane(record);
        break;
      case "buffered":
      case "dropped":
        this.#placeLane(record);
        break;
      case "closed":
        this.#close(record);
        break;
      case "finished":
        this.unaware = [];
        break;
      case "missed":
        // Its device has given it up, and is started anew.
        if (this.lanes.get(record.deviceId)?.lane === record.lane)
          this.lanes.delete(record.deviceId);
        break;
      case "revised":
      case "scored":
        break;
      default:
        this.#amend(record);
    }
  }

  #openLane(record: RecordOf<"lane">): void {
    const { deviceId, lane, round, attempt } = record;
    this.lastLanes.set(deviceId, Math.max(lane, this.lastLanes.get(deviceId) ?? 0));
    // One that was opened while its round was being closed belongs to no round to come.
    const isCurrent = round === this.round && attempt === this.attempt;
    if (isCurrent || this.#isAsynchronous) this.lanes.set(deviceId, { ...record, uploads: [] });
  }

  #placeLane(record: RecordOf<"buffered" | "dropped">): void {
    const { deviceId, lane } = record;
    const recorded = this.lanes.get(deviceId);
    if (recorded?.lane !== lane) return;
    this.lanes.delete(deviceId);
    if (record.kind === "dropped") return;
    const { kind: _, ...update } = record;
    this.buffer = [...this.buffer, { recorded, update }];
    this.acceptedLanes.set(deviceId, lane);
  }

  #close({ round, accepted }: RecordOf<"closed">): void {
    for (const [deviceId, lane] of Object.entries(accepted))
      this.acceptedLanes.set(deviceId, Math.max(lane, this.acceptedLanes.get(deviceId) ?? 0));
    // Where a round needs only some, the others take part as well.
    const isPartial = this.cohort !== undefined || this.#isAsynchronous;
    this.unaware = isPartial ? [...this.acceptedLanes.keys()] : Object.keys(accepted);
    if (!this.#isAsynchronous) this.lanes.clear();
    this.buffer = this.buffer.filter(({ update }) => update.round !== round);
    this.round = round + 1;
    this.attempt = 1;
    this.isInterrupted = false;
    this.cohort = undefined;
  }

  /** Adds what a lane received, if it is still its device's newest; a report may come once it is buffered. */
  #amend(record: RecordOf<"upload" | "result" | "report">): void {
    const { deviceId } = record;
    const lane = this.lanes.get(deviceId);
    if (lane?.lane === record.lane) this.lanes.set(deviceId, amended(lane, record));
    else if (record.kind === "report")
      this.buffer = this.buffer.map(({ recorded, update }) => {
        const isIts = recorded.deviceId === deviceId && recorded.lane === record.lane;
        return { update, recorded: isIts ? amended(recorded, record) : recorded };
      });
  }
}

type RecordOf<Kind extends JournalRecord["kind"]> = Extract<JournalRecord, { kind: Kind }>;

function amended(
  lane: RecordedLane,
  record: RecordOf<"upload" | "result" | "report">,
): RecordedLane {
  if (record.kind === "upload") return { ...lane, uploads: [...lane.uploads, record] };
  if (record.kind === "result") return { ...lane, result: record };
  return { ...lane, report: record.report };
}
