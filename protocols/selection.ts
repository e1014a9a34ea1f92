// Which framework each device uses, decided from its profile and budget: a pure function that
// explains every choice with the figure and the limit. What a board is called plays no part in it.
import type { DeviceBudget, DeviceProfile } from "../devices/index.ts";
import type { ExecutionMode } from "../runtime/index.ts";
import { protocolErrors } from "./errors.ts";
import { comparison, judgeCandidate } from "./feasibility.ts";
import { labelOf, type Way, wayOf } from "./way.ts";

/** What one round costs a device. */
export interface RoundCost {
  /** Training memory above the idle device process. */
  readonly peakMemoryBytes: number;
  readonly uplinkBytes: number;
  readonly downlinkBytes: number;
  readonly flops: number;
  /** Exchanges the device waits for. */
  readonly roundTrips: number;
}

/** What a device does in the rounds to come. */
export interface Assignment extends Way {
  readonly deviceId: string;
  /** Name and version of the protocol. */
  readonly protocol: string;
  readonly protocolVersion: number;
  /** One line for people: why this one. */
  readonly reason: string;
}

/** One way a device could take part, at its estimated cost: one for each cut that is possible and each rank and mode that the task allows. */
export interface Candidate extends Way {
  readonly protocol: string;
  readonly version: number;
  readonly cost: RoundCost;
  /** Why the task or the device forbids it whatever it costs, such as labels that may not leave. */
  readonly refusedBecause?: string;
}

/** What selection decides from. */
export interface SelectionInput {
  readonly deviceId: string;
  readonly profile: DeviceProfile;
  readonly budget: DeviceBudget;
  readonly candidates: readonly Candidate[];
  /** Protocol names, the preferred one first; others are not used. */
  readonly order: readonly string[];
  /** Execution modes, the preferred one first. */
  readonly modes?: readonly ExecutionMode[];
  /** What the task allows any device; the stricter of this and the budget counts. */
  readonly limits?: DeviceBudget;
  /** Set when the task itself says how this device takes part; the candidates are those it asks for. */
  readonly override?: SelectionOverride;
}

/** A task's own word on a device. */
export interface SelectionOverride {
  /** For people: what for whom. */
  readonly text: string;
  /** Whether limits that a figure breaks are ignored. */
  readonly force: boolean;
}

/** A choice with everything it was made from. */
export interface Selection {
  /** Absent when no candidate is feasible. */
  readonly assignment?: Assignment;
  /** Every candidate in the order of preference. */
  readonly table: readonly CandidateVerdict[];
  /** The task's own word on the device, when there is one. */
  readonly override?: SelectionOverride;
}

/** A candidate against the device's limits. */
export interface CandidateVerdict {
  readonly candidate: Candidate;
  readonly feasible: boolean;
  /** What a round is estimated to take, beside its limit where there is one. */
  readonly figures: readonly RoundFigure[];
  /** Every limit that it breaks; empty when feasible. */
  readonly rejections: readonly Rejection[];
  /** For people: the rejections, or what it takes when feasible. */
  readonly text: string;
}

/** Name of an estimated figure. */
export type FigureName =
  | "peakMemoryBytes"
  | "uplinkBytes"
  | "downlinkBytes"
  | "bytes"
  | "seconds"
  | "joules";

/** One figure of a round; `value` is undefined when the profile cannot tell it. */
export interface RoundFigure {
  readonly name: FigureName;
  readonly unit: "bytes" | "seconds" | "joules";
  readonly value: number | undefined;
  readonly limit: number | undefined;
  /** Whose limit it is, when there is one: the stricter of two. */
  readonly limitedBy?: "task" | "device" | "free memory";
}

/** Why a candidate is not feasible. Figures are absent when it is refused whatever it costs. */
export interface Rejection extends Partial<RoundFigure> {
  readonly text: string;
}

/**
 * The first feasible candidate in the task's order of protocols, then by the highest rank, then in its order of modes: a mode
 * costs time, a lower rank what the device can learn. Among several cuts of one protocol the
 * one that takes the least memory, then the fewest FLOPs. A cut moves no bytes of activations, only work: every figure of the device rises with
 * it, and split is chosen where the owner left little room, so the room beside it is worth more than the deeper front.
 */
export function selectAssignment(input: SelectionInput): Selection {
  const { deviceId, candidates, order, modes = [], override } = input;
  const place = ({ protocol }: Candidate) => {
    const at = order.indexOf(protocol);
    return at < 0 ? order.length : at;
  };
  const width = ({ rank: own = Number.MAX_SAFE_INTEGER }: Candidate) => own;
  const modeRank = ({ mode = "whole-float32" }: Candidate) => modes.indexOf(mode);
  const table = candidates
    .toSorted(
      (a, b) =>
        place(a) - place(b) || width(b) - width(a) || modeRank(a) - modeRank(b) || lighter(a, b),
    )
    .map((candidate) => judgeCandidate(candidate, input));
  const forced = override?.force ? table.find(onlyFiguresReject) : undefined;
  const chosen = table.find(({ feasible }) => feasible) ?? forced;
  const basis = { table, ...(override ? { override } : {}) };
  if (!chosen) return basis;
  const { protocol, version } = chosen.candidate;
  const assignment: Assignment = {
    deviceId,
    protocol,
    protocolVersion: version,
    ...wayOf(chosen.candidate),
    reason: override ? overriddenReason(chosen, override) : reasonOf(chosen, table),
  };
  return { assignment, ...basis };
}

/** The assignment of a selection; throws `SELECTION_IMPOSSIBLE` with every rejection when there is none. */
export function requireAssignment(
  deviceId: string,
  { assignment, table, override }: Selection,
): Assignment {
  if (assignment) return assignment;
  const lines = table.map(({ text }) => text).join("; ") || "there are no candidates";
  const asked = override ? `the task assigns ${override.text}: ` : "";
  const less =
    "Raise one of the limits named, or ask less of a round in the task: steps, batch, length, encoding.";
  const hint = override ? `${less} With force: true the assignment stands against figures.` : less;
  throw protocolErrors.error("SELECTION_IMPOSSIBLE", `device ${deviceId}: ${asked}${lines}`, {
    hint,
  });
}

/** The verdict on what a selection chose: the first feasible one, or what an override or earlier rounds made of it. */
export function chosenOf({ assignment, table }: Selection): CandidateVerdict | undefined {
  return assignment && table.find(({ candidate }) => labelOf(candidate) === labelOf(assignment));
}

/** Whether limits alone speak against it, and nothing that no force can mend. */
function onlyFiguresReject({ rejections }: CandidateVerdict): boolean {
  return rejections.every(({ name }) => name !== undefined);
}

function lighter(a: Candidate, b: Candidate): number {
  return (
    a.cost.peakMemoryBytes - b.cost.peakMemoryBytes ||
    a.cost.flops - b.cost.flops ||
    (a.cutLayer ?? 0) - (b.cutLayer ?? 0)
  );
}

/**
 * The chosen one; for every protocol without a feasible candidate why its first one is not, and why the chosen
 * protocol's preferred ranks and modes are not.
 */
function reasonOf(chosen: CandidateVerdict, table: readonly CandidateVerdict[]): string {
  const label = labelOf(chosen.candidate);
  const possible = new Set(
    table.filter(({ feasible }) => feasible).map(({ candidate }) => candidate.protocol),
  );
  const place = table.indexOf(chosen);
  const refused = table.filter(({ candidate: { protocol, mode, rank } }, i) => {
    const isFirst = table.findIndex(({ candidate }) => candidate.protocol === protocol) === i;
    const isOther = mode !== chosen.candidate.mode || rank !== chosen.candidate.rank;
    const isPreferred = i < place && protocol === chosen.candidate.protocol && isOther;
    return isPreferred || (isFirst && !possible.has(protocol));
  });
  const takes = takesText(chosen);
  const first = chosen === table[0] ? [`first in the task's order, ${takes}`] : [];
  return `${label}: ${[...first, ...refused.map(({ text }) => text)].join("; ") || takes}`;
}

function overriddenReason(chosen: CandidateVerdict, { text }: SelectionOverride): string {
  const against = chosen.rejections.map((rejection) => rejection.text).join(" and ");
  const outcome = chosen.feasible ? takesText(chosen) : `forced although it ${against}`;
  return `${labelOf(chosen.candidate)}: overridden by the task (${text}), ${outcome}`;
}

function takesText({ figures: [memory] }: CandidateVerdict): string {
  return memory ? `takes ${comparison(memory)} training memory` : "fits";
}
