// What a run amounts to, from its journal: per device and per round. Pure; every figure was journaled.
import { labelOf, type RoundCost, type Way, wayOf } from "../../protocols/index.ts";
import type { Score } from "../../runtime/index.ts";
import type {
  ClosedRecord,
  JournalRecord,
  RoundCosts,
  ScoredRecord,
} from "../coordinator/journal.ts";

/** One device over all its accepted rounds. */
export interface DeviceSummary extends Way {
  readonly id: string;
  /** What the device calls its board; its id when the journal does not say. */
  readonly board: string;
  /** The last one, should it have changed. */
  readonly framework: string;
  readonly reason: string;
  readonly rounds: number;
  readonly examples: number;
  readonly uplinkBytes: number;
  readonly downlinkBytes: number;
  readonly rawUplinkBytes: number;
  readonly rawDownlinkBytes: number;
  readonly provisioningBytes: number;
  readonly repeatedBytes: number;
  readonly flops: number;
  readonly seconds: number;
  /** Highest of all rounds, above the idle process. */
  readonly peakMemoryBytes: number;
  readonly idleMemoryBytes: number;
  /** On the device's own hold-out after its last round; absent without one and for language models. */
  readonly accuracy?: number;
  /** The same of a language model. */
  readonly perplexity?: number;
  /** What selection expected one round to take; absent in journals of older versions. */
  readonly estimate?: RoundCost;
}

/** One finished round, and what the global model was worth after it. */
export type RoundSummary = Score &
  RoundCosts & {
    readonly round: number;
    readonly devices: readonly string[];
    /** What the scoring took, while the next round went on. */
    readonly scoringSeconds: number;
  };

/** A device that was given something else to do. */
export interface RevisionSummary {
  /** The first round in which it did so. */
  readonly round: number;
  readonly deviceId: string;
  readonly from: string;
  readonly to: string;
  readonly because: string;
}

/** A run in figures. */
export interface RunSummary {
  readonly revisions: readonly RevisionSummary[];
  readonly devices: readonly DeviceSummary[];
  readonly rounds: readonly RoundSummary[];
}

/** The records of what was folded into the global model; work that was given up or came late is left out. */
export interface AcceptedRecords {
  readonly closed: readonly ClosedRecord[];
  readonly lanes: readonly LaneRecord[];
  readonly reports: readonly ReportRecord[];
}

/** The finished rounds of a journal with the lanes that they accepted. */
export function acceptedRecords(records: readonly JournalRecord[]): AcceptedRecords {
  const closed = records.filter((record) => record.kind === "closed");
  const accepted = new Set(
    closed.flatMap(({ accepted: lanes, updates }) =>
      updates
        ? updates.map(({ deviceId, lane }) => `${deviceId} ${lane}`)
        : Object.entries(lanes).map(([id, lane]) => `${id} ${lane}`),
    ),
  );
  const isAccepted = ({ deviceId, lane }: { readonly deviceId: string; readonly lane: number }) =>
    accepted.has(`${deviceId} ${lane}`);
  return {
    closed,
    lanes: records.filter((record) => record.kind === "lane").filter(isAccepted),
    reports: records.filter((record) => record.kind === "report").filter(isAccepted),
  };
}

/** The finished rounds whose score is known: all but perhaps the last one of a run that goes on. */
export function scoredRounds(
  records: readonly JournalRecord[],
): readonly { readonly closed: ClosedRecord; readonly scored: ScoredRecord }[] {
  const scores = new Map(
    records.flatMap((record) => (record.kind === "scored" ? [[record.round, record]] : [])),
  );
  return records.flatMap((closed) => {
    const scored = closed.kind === "closed" ? scores.get(closed.round) : undefined;
    return closed.kind === "closed" && scored ? [{ closed, scored }] : [];
  });
}

/** Sums up the accepted lanes of a journal; devices in id order. */
export function summarise(records: readonly JournalRecord[]): RunSummary {
  const { lanes, reports } = acceptedRecords(records);
  const ids = [...new Set(lanes.map(({ deviceId }) => deviceId))].sort();
  return {
    revisions: records.flatMap((record) => {
      if (record.kind !== "revised") return [];
      const { kind: _, assignment, ...rest } = record;
      return [{ ...rest, to: labelOf(assignment) }];
    }),
    devices: ids.map((id) =>
      summariseDevice(
        lanes.filter(({ deviceId }) => deviceId === id),
        reports.filter(({ deviceId }) => deviceId === id),
      ),
    ),
    rounds: scoredRounds(records).map(
      ({ closed: { kind: _, attempt: __, accepted: folded, ...round }, scored }) => {
        const { kind: ___, ...score } = scored;
        return { ...round, ...score, devices: Object.keys(folded).sort() };
      },
    ),
  };
}

type LaneRecord = Extract<JournalRecord, { kind: "lane" }>;
type ReportRecord = Extract<JournalRecord, { kind: "report" }>;

function summariseDevice(
  lanes: readonly LaneRecord[],
  records: readonly ReportRecord[],
): DeviceSummary {
  const { deviceId, assignment, board = deviceId, estimate } = lanes.at(-1) as LaneRecord;
  const reports = records.map(({ report }) => report);
  const total = (read: (report: ReportRecord["report"]) => number) =>
    reports.reduce((sum, report) => sum + read(report), 0);
  const most = (read: (report: ReportRecord["report"]) => number) =>
    Math.max(0, ...reports.map(read));
  const { accuracy, perplexity } = reports.at(-1) ?? {};
  return {
    id: deviceId,
    board,
    framework: assignment.protocol,
    ...wayOf(assignment),
    reason: assignment.reason,
    rounds: lanes.length,
    examples: most(({ examples }) => examples),
    uplinkBytes: total((report) => report.uplinkBytes),
    downlinkBytes: total((report) => report.downlinkBytes),
    rawUplinkBytes: total((report) => report.rawUplinkBytes),
    rawDownlinkBytes: total((report) => report.rawDownlinkBytes),
    provisioningBytes: total((report) => report.provisioningBytes),
    repeatedBytes: total((report) => report.repeatedBytes),
    flops: total((report) => report.flops),
    seconds: total((report) => report.trainSeconds),
    peakMemoryBytes: most((report) => report.peakMemoryBytes),
    idleMemoryBytes: most((report) => report.idleMemoryBytes),
    ...(accuracy === undefined ? {} : { accuracy }),
    ...(perplexity === undefined ? {} : { perplexity }),
    ...(estimate === undefined ? {} : { estimate }),
  };
}
