// What the journal says about the round that a crash interrupted, and the counters that must not fall back.
import type { Assignment } from "../../protocols/index.ts";
import type { DeviceRoundReport } from "../control-messages.ts";
import type { JournalRecord } from "./journal.ts";

/** One device's lane as the journal knows it. */
export interface RecordedLane {
  readonly deviceId: string;
  readonly lane: number;
  readonly assignment: Assignment;
  readonly resumable: boolean;
  readonly uploads: readonly { readonly sequence: number; readonly file: string }[];
  readonly result?: { readonly sequence: number; readonly file: string; readonly weight: number };
  readonly report?: DeviceRoundReport;
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
  /** The newest lane of each device in the interrupted attempt, by device id. */
  readonly lanes: ReadonlyMap<string, RecordedLane>;
  /** The highest lane number each device was ever given. */
  readonly lastLanes: ReadonlyMap<string, number>;
  /** The last lane of each device that was folded in. */
  readonly acceptedLanes: ReadonlyMap<string, number>;
  /** Devices that take part and have not heard of the run's end. */
  readonly unaware: readonly string[];
}

/** Replays the journal. Pure. */
export function positionOf(records: readonly JournalRecord[]): RunPosition {
  const lastLanes = new Map<string, number>();
  const acceptedLanes = new Map<string, number>();
  let lanes = new Map<string, RecordedLane>();
  let round = 1;
  let attempt = 1;
  let isInterrupted = false;
  let unaware: readonly string[] = [];
  let cohort: readonly string[] | undefined;
  for (const record of records) {
    switch (record.kind) {
      case "round":
        ({ round, attempt, cohort } = record);
        lanes = new Map();
        isInterrupted = true;
        break;
      case "lane":
        lastLanes.set(record.deviceId, Math.max(record.lane, lastLanes.get(record.deviceId) ?? 0));
        // One that was opened while its round was being closed belongs to no round to come.
        if (record.round === round && record.attempt === attempt)
          lanes.set(record.deviceId, { ...record, uploads: [] });
        break;
      case "closed":
        for (const [deviceId, lane] of Object.entries(record.accepted))
          acceptedLanes.set(deviceId, lane);
        // Where a round asks only some, the others wait for the next one and take part as well.
        unaware = Object.keys(cohort ? Object.fromEntries(acceptedLanes) : record.accepted);
        cohort = undefined;
        lanes = new Map();
        round = record.round + 1;
        attempt = 1;
        isInterrupted = false;
        break;
      case "finished":
        unaware = [];
        break;
      case "missed":
      case "revised":
        break;
      default:
        amend(lanes, record);
    }
  }
  return { round, attempt, isInterrupted, cohort, lanes, lastLanes, acceptedLanes, unaware };
}

/** Adds what a lane received, if it is still its device's newest. */
function amend(
  lanes: Map<string, RecordedLane>,
  record: Extract<JournalRecord, { kind: "upload" | "result" | "report" }>,
): void {
  const lane = lanes.get(record.deviceId);
  if (lane?.lane !== record.lane) return;
  const { deviceId } = record;
  if (record.kind === "upload")
    lanes.set(deviceId, { ...lane, uploads: [...lane.uploads, record] });
  else if (record.kind === "result") lanes.set(deviceId, { ...lane, result: record });
  else lanes.set(deviceId, { ...lane, report: record.report });
}
