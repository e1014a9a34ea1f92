// Whether a device can carry a candidate: its round in figures (FRAMEWORKS: memory, bytes, seconds, energy), each
// against the strictest limit of profile and budget. Every limit that is broken is named, not only the first.
import { type DeviceBudget, type DeviceProfile, formatQuantity } from "../devices/index.ts";
import type { Candidate, CandidateVerdict, Rejection, RoundFigure } from "./selection.ts";
import { labelOf } from "./way.ts";

/** Judges one candidate; pure. A limit on a figure that the profile cannot tell rejects: it could not be kept. */
export function judgeCandidate(
  candidate: Candidate,
  profile: DeviceProfile,
  budget: DeviceBudget,
  order: readonly string[],
): CandidateVerdict {
  const figures = figuresOf(candidate, profile, budget);
  const rejections = [
    ...refusals(candidate, order),
    ...figures
      .filter(exceeds)
      .map((figure) => ({ ...figure, text: rejectionText(figure, budget) })),
  ];
  const feasible = rejections.length === 0;
  const outcome = feasible
    ? `fits: ${listing(figures)}`
    : rejections.map(({ text }) => text).join(" and ");
  return { candidate, feasible, figures, rejections, text: `${labelOf(candidate)} ${outcome}` };
}

/** "86.2 MB of 48.0 MB", in whole units where rounding would hide the difference. */
export function comparison({ value, limit, unit }: RoundFigure): string {
  if (value === undefined || limit === undefined) return "";
  const [needed, allowed] = [formatQuantity(value, unit), formatQuantity(limit, unit)];
  if (needed !== allowed || value === limit) return `${needed} of ${allowed}`;
  return `${value} of ${limit} ${unit}`;
}

function figuresOf(
  { cost }: Candidate,
  { memory, gemmFlopsPerSecond, link, power }: DeviceProfile,
  budget: DeviceBudget,
): readonly RoundFigure[] {
  const { uplinkBytes, downlinkBytes } = cost;
  const seconds =
    cost.flops / gemmFlopsPerSecond.value +
    (8 * uplinkBytes) / link.uplinkBitsPerSecond.value +
    (8 * downlinkBytes) / link.downlinkBitsPerSecond.value +
    (cost.roundTrips * link.roundTripMs.value) / 1000;
  // The board is awake for the whole round, so waiting is counted at the active power too: an upper bound.
  const watts = power?.activeWatts?.value;
  const memoryLimit = Math.min(
    budget.trainingMemoryBytes ?? Number.POSITIVE_INFINITY,
    memory.availableBytes.value,
    memory.limitBytes?.value ?? Number.POSITIVE_INFINITY,
  );
  return [
    { name: "peakMemoryBytes", unit: "bytes", value: cost.peakMemoryBytes, limit: memoryLimit },
    { name: "uplinkBytes", unit: "bytes", value: uplinkBytes, limit: budget.uplinkBytesPerRound },
    {
      name: "downlinkBytes",
      unit: "bytes",
      value: downlinkBytes,
      limit: budget.downlinkBytesPerRound,
    },
    {
      name: "bytes",
      unit: "bytes",
      value: uplinkBytes + downlinkBytes,
      limit: budget.bytesPerRound,
    },
    { name: "seconds", unit: "seconds", value: seconds, limit: budget.secondsPerRound },
    {
      name: "joules",
      unit: "joules",
      value: watts === undefined ? undefined : seconds * watts,
      limit: budget.joulesPerRound,
    },
  ];
}

function exceeds({ value, limit }: RoundFigure): boolean {
  if (limit === undefined) return false;
  // Written so that a figure that is not a number is rejected, too.
  return value === undefined || !(value <= limit);
}

function refusals({ protocol, refusedBecause }: Candidate, order: readonly string[]): Rejection[] {
  const refused = refusedBecause === undefined ? [] : [{ text: `is refused: ${refusedBecause}` }];
  if (order.includes(protocol)) return refused;
  return [{ text: `is not among the task's protocols (${order.join(", ")})` }, ...refused];
}

function rejectionText(figure: RoundFigure, budget: DeviceBudget): string {
  const { name, unit, value, limit } = figure;
  if (value === undefined) {
    const allowed = formatQuantity(limit ?? 0, unit);
    return `cannot be held to ${allowed} ${wording[name]}: the profile has no active power`;
  }
  const fromBudget = name !== "peakMemoryBytes" || limit === budget.trainingMemoryBytes;
  return `needs ${comparison(figure)} ${fromBudget ? wording[name] : "free memory"}`;
}

function listing(figures: readonly RoundFigure[]): string {
  return figures
    .filter(({ name, value }) => value !== undefined && name !== "bytes")
    .map((figure) => {
      const { name, unit, value = 0, limit } = figure;
      const amount = limit === undefined ? formatQuantity(value, unit) : comparison(figure);
      return `${amount} ${wording[name]}`;
    })
    .join(", ");
}

const wording: { readonly [N in RoundFigure["name"]]: string } = {
  peakMemoryBytes: "training memory",
  uplinkBytes: "uplink a round",
  downlinkBytes: "downlink a round",
  bytes: "traffic a round",
  seconds: "time a round",
  joules: "energy a round",
};
