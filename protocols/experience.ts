// What the rounds of one device showed of the ways in which it took part, and which ways that speaks against for now.
import { formatQuantity } from "../devices/index.ts";
import type { CandidateVerdict, FigureName } from "./selection.ts";
import { labelOf, type Way } from "./way.ts";

/** What a device tells of itself at the end of a round. */
export interface DeviceState {
  /** What training may take, were its model not loaded. */
  readonly availableBytes?: number;
  readonly temperatureCelsius?: number;
  /** Whether heat or supply voltage holds the processor back. */
  readonly throttled?: boolean;
  /** Of the round's own uploads, when they were large enough to tell. */
  readonly uplinkBitsPerSecond?: number;
}

/** One round of a device. */
export type RoundExperience = Way & {
  readonly protocol: string;
  readonly round: number;
} & (
    | {
        readonly kind: "done";
        /** As measured; what was not is absent. */
        readonly figures: Readonly<Partial<Record<FigureName, number>>>;
        readonly state?: DeviceState;
      }
    /** It had not delivered when the round closed. */
    | { readonly kind: "late" }
    /** The device gave the round up, and its error's code. */
    | { readonly kind: "failed"; readonly code: string }
  );

/** A round that speaks against a way, and what it says of others. */
export interface Strike {
  /** For people: what happened, figure and limit. */
  readonly text: string;
  /** Every way that is estimated to take at least as much of this is out; `way`: this one alone. */
  readonly measure: FigureName | "flops" | "way";
}

/** A strike that still stands. */
export interface Veto extends Strike {
  /** The way that was struck. */
  readonly label: string;
  /** Good rounds that it takes to be tried again. */
  readonly roundsLeft: number;
}

/** A measured figure may exceed its limit by a tenth: headers and the allocator's rounding are no fault of the way. */
const tolerance = 1.1;

/**
 * What stands against a device's ways after its rounds, in their order. A veto ends after `goodRounds` rounds without a strike,
 * the n-th on the same way after 2^(n-1) times as many: what fails again and again is tried more and more rarely.
 */
export function vetoesOf(
  history: readonly RoundExperience[],
  verdicts: readonly CandidateVerdict[],
  goodRounds: number,
): readonly Veto[] {
  let vetoes: readonly Veto[] = [];
  const strikes = new Map<string, number>();
  for (const [i, experience] of history.entries()) {
    const label = labelOf(experience);
    const strike = strikeOf(history.slice(0, i + 1), verdicts);
    if (strike) {
      const count = (strikes.get(label) ?? 0) + 1;
      strikes.set(label, count);
      const roundsLeft = goodRounds * 2 ** Math.min(count - 1, 16);
      vetoes = [...vetoes, { ...strike, label, roundsLeft }];
    } else if (isCool(experience)) {
      vetoes = vetoes.map((veto) => ({ ...veto, roundsLeft: veto.roundsLeft - 1 }));
    }
  }
  return vetoes.filter(({ roundsLeft }) => roundsLeft > 0);
}

/** What the last round of a history speaks against, or undefined when it was a good one or the first late one. */
export function strikeOf(
  history: readonly RoundExperience[],
  verdicts: readonly CandidateVerdict[],
): Strike | undefined {
  const last = history.at(-1);
  const former = history.at(-2);
  // Another way's rounds say nothing of this one.
  const before = former && last && labelOf(former) === labelOf(last) ? former : undefined;
  switch (last?.kind) {
    case "failed":
      return {
        text: `failed with ${last.code} in round ${last.round}`,
        measure: /MEMORY/.test(last.code) ? "peakMemoryBytes" : "way",
      };
    case "late":
      if (before?.kind !== "late") return undefined;
      return {
        text: `missed the deadlines of rounds ${before.round} and ${last.round}`,
        measure: "seconds",
      };
    case "done":
      return brokenLimit(last, verdicts) ?? heatStrike(last, before);
    case undefined:
      return undefined;
  }
}

/** Whether a round was done without the board being held back: one that was is no promise, though not yet a strike. */
export function isCool(experience: RoundExperience): boolean {
  return experience.kind === "done" && experience.state?.throttled !== true;
}

type Done = Extract<RoundExperience, { kind: "done" }>;

function heatStrike(last: Done, before: RoundExperience | undefined): Strike | undefined {
  const wasHot = before?.kind === "done" && before.state?.throttled === true;
  if (!wasHot || last.state?.throttled !== true) return undefined;
  const { temperatureCelsius: celsius } = last.state;
  const heat = celsius === undefined ? "" : ` at ${celsius.toFixed(0)} °C`;
  const text = `was throttled${heat} in rounds ${before.round} and ${last.round}`;
  return { text, measure: "flops" };
}

/** The first limit that the measured round broke. What a process took of free memory, it had. */
function brokenLimit(done: Done, verdicts: readonly CandidateVerdict[]): Strike | undefined {
  const verdict = verdicts.find(({ candidate }) => labelOf(candidate) === labelOf(done));
  for (const { name, unit, limit, limitedBy } of verdict?.figures ?? []) {
    const value = done.figures[name];
    if (limit === undefined || value === undefined || limitedBy === "free memory") continue;
    if (value <= tolerance * limit) continue;
    const took = `${formatQuantity(value, unit)} of ${formatQuantity(limit, unit)}`;
    return { text: `took ${took} ${measured[name]} in round ${done.round}`, measure: name };
  }
  return undefined;
}

const measured: { readonly [N in FigureName]: string } = {
  peakMemoryBytes: "training memory",
  uplinkBytes: "uplink",
  downlinkBytes: "downlink",
  bytes: "traffic",
  seconds: "time",
  joules: "energy",
};
