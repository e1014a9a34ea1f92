// A device's assignment looked at again between rounds: down at once when a round broke a limit, up again only after
// rounds that went well. Pure: the same facts and history give the same answer.
import type { DeviceProfile } from "../devices/index.ts";
import {
  type DeviceState,
  isCool,
  type RoundExperience,
  strikeOf,
  type Veto,
  vetoesOf,
} from "./experience.ts";
import { type AnyProtocol, type DeviceOffer, selectionInput } from "./registry.ts";
import {
  type Assignment,
  type Candidate,
  type CandidateVerdict,
  type Selection,
  type SelectionInput,
  selectAssignment,
} from "./selection.ts";
import type { Task } from "./task.ts";
import { labelOf } from "./way.ts";

/** What an assignment is revised from. */
export interface RevisionFacts {
  readonly offer: DeviceOffer;
  /** What the device does now. */
  readonly current: Assignment;
  /** Its rounds so far, the last one last. */
  readonly history: readonly RoundExperience[];
}

/** What becomes of an assignment. */
export interface Revision {
  readonly assignment: Assignment;
  /** Everything it was decided from. */
  readonly selection: Selection;
  /** The profile with what the device said last. */
  readonly profile: DeviceProfile;
  readonly change: /** It goes on in its way, with the allowance that its link leaves now. */
    | { readonly kind: "none" }
    /** It moves, and why. */
    | { readonly kind: "moved"; readonly because: string }
    /** Something speaks against it, and nothing else fits. */
    | { readonly kind: "kept"; readonly because: string };
}

/**
 * Decides what a device does next. It leaves its way when that no longer fits or is struck (see `vetoesOf`), for the first that
 * fits. It goes to a way that the task prefers when its last `selection.goodRounds` rounds went well in the present one, and the
 * preferred one fits the least memory and the slowest link that these rounds showed.
 */
export function revise(known: readonly AnyProtocol[], task: Task, facts: RevisionFacts): Revision {
  const { offer, current, history } = facts;
  const { goodRounds } = task.selection;
  const profile = profileWith(offer.profile, history.slice(-1));
  const input = selectionInput(known, task, { ...offer, profile });
  const { table } = selectAssignment(input);
  const vetoes = vetoesOf(history, table, goodRounds);
  const now = selectWithout(input, vetoes, table);
  const label = labelOf(current);
  const own = now.table.find(({ candidate }) => labelOf(candidate) === label);
  const fits = own?.feasible ?? false;
  const next = fits ? preferred(known, task, facts, { vetoes, table }) : now.assignment;
  const isElsewhere = next !== undefined && labelOf(next) !== label;
  const goesOn = withAllowance(current, own?.candidate);
  const stays = { assignment: goesOn, selection: { ...now, assignment: goesOn }, profile };
  if (isElsewhere) {
    const because = fits
      ? `${goodRounds} good rounds, and ${next.reason}`
      : againstText(own, label);
    return {
      assignment: next,
      selection: { ...now, assignment: next },
      profile,
      change: { kind: "moved", because },
    };
  }
  const isStruck = strikeOf(history, table) !== undefined;
  if (fits || next !== undefined || !isStruck) return { ...stays, change: { kind: "none" } };
  return { ...stays, change: { kind: "kept", because: againstText(own, label) } };
}

/** An assignment with the allowance that the same way has in a newer table. */
function withAllowance(current: Assignment, own: Candidate | undefined): Assignment {
  return own?.allowance === undefined ? current : { ...current, allowance: own.allowance };
}

/** A better way after enough good rounds in the present one, judged by the worst that they showed. */
function preferred(
  known: readonly AnyProtocol[],
  task: Task,
  { offer, current, history }: RevisionFacts,
  {
    vetoes,
    table,
  }: { readonly vetoes: readonly Veto[]; readonly table: readonly CandidateVerdict[] },
): Assignment | undefined {
  const { goodRounds } = task.selection;
  const last = history.slice(-goodRounds);
  const wentWell = (experience: RoundExperience, i: number) =>
    isCool(experience) &&
    labelOf(experience) === labelOf(current) &&
    strikeOf(history.slice(0, history.length - last.length + i + 1), table) === undefined;
  if (last.length < goodRounds || !last.every(wentWell)) return undefined;
  const profile = profileWith(offer.profile, last);
  const input = selectionInput(known, task, { ...offer, profile });
  const { assignment, table: cautious } = selectWithout(input, vetoes, table);
  const placeOf = (one: Assignment) =>
    cautious.findIndex(({ candidate }) => labelOf(candidate) === labelOf(one));
  return assignment && placeOf(assignment) < placeOf(current) ? assignment : undefined;
}

function selectWithout(
  input: SelectionInput,
  vetoes: readonly Veto[],
  table: readonly CandidateVerdict[],
): Selection {
  const candidates = input.candidates.map((candidate) => {
    const veto = vetoes.find((one) => speaksAgainst(one, candidate, table));
    if (!veto || candidate.refusedBecause !== undefined) return candidate;
    const whose =
      veto.label === labelOf(candidate) ? "it" : `it takes no less than ${veto.label}, which`;
    return { ...candidate, refusedBecause: `${whose} ${veto.text}` };
  });
  return selectAssignment({ ...input, candidates });
}

/** A strike on a figure is one on every way that is estimated to take as much of it. */
function speaksAgainst(
  { label, measure }: Veto,
  candidate: Candidate,
  table: readonly CandidateVerdict[],
): boolean {
  if (labelOf(candidate) === label) return true;
  if (measure === "way") return false;
  const amountOf = (wanted: string) => {
    const verdict = table.find((one) => labelOf(one.candidate) === wanted);
    if (measure === "flops") return verdict?.candidate.cost.flops;
    return verdict?.figures.find(({ name }) => name === measure)?.value;
  };
  const [struck, own] = [amountOf(label), amountOf(labelOf(candidate))];
  return struck !== undefined && own !== undefined && own >= struck;
}

/** The profile with the least memory and the slowest uplink of some rounds, where their device told. */
function profileWith(profile: DeviceProfile, rounds: readonly RoundExperience[]): DeviceProfile {
  const states = rounds.flatMap((one) => (one.kind === "done" && one.state ? [one.state] : []));
  const least = (read: (state: DeviceState) => number | undefined) => {
    const told = states.map(read).filter((value) => value !== undefined);
    return told.length === 0
      ? undefined
      : ({ value: Math.min(...told), origin: "measured" } as const);
  };
  const memory = least(({ availableBytes }) => availableBytes);
  const uplink = least(({ uplinkBitsPerSecond }) => uplinkBitsPerSecond);
  const { temperatureCelsius, throttled } = states.at(-1) ?? {};
  const heat =
    temperatureCelsius === undefined
      ? undefined
      : ({ value: temperatureCelsius, origin: "measured" } as const);
  return {
    ...profile,
    memory: { ...profile.memory, ...(memory ? { availableBytes: memory } : {}) },
    link: { ...profile.link, ...(uplink ? { uplinkBitsPerSecond: uplink } : {}) },
    ...(heat ? { temperatureCelsius: heat } : {}),
    ...(throttled === undefined ? {} : { throttled }),
  };
}

function againstText(verdict: CandidateVerdict | undefined, label: string): string {
  return verdict?.text ?? `${label} is no longer possible`;
}
