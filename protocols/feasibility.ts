// Whether a device can carry a candidate: its round in figures (FRAMEWORKS: memory, bytes, seconds, energy), each
// against the strictest limit of profile and budget. Every limit that is broken is named, not only the first.
import { type DeviceBudget, formatQuantity } from "../devices/index.ts";
import type {
  Candidate,
  CandidateVerdict,
  FigureName,
  Rejection,
  RoundFigure,
  SelectionInput,
} from "./selection.ts";
import { labelOf } from "./way.ts";

/** Judges one candidate; pure. A limit on a figure that the profile cannot tell rejects: it could not be kept. */
export function judgeCandidate(
  candidate: Candidate,
  input: Pick<SelectionInput, "profile" | "budget" | "limits" | "order">,
): CandidateVerdict {
  const figures = figuresOf(candidate, input);
  const rejections = [
    ...refusals(candidate, input.order),
    ...figures.filter(exceeds).map((figure) => ({ ...figure, text: rejectionText(figure) })),
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

type Judged = Pick<SelectionInput, "profile" | "budget" | "limits">;

function figuresOf({ cost }: Candidate, judged: Judged): readonly RoundFigure[] {
  const { gemmFlopsPerSecond, link, power } = judged.profile;
  const { peakMemoryBytes, uplinkBytes, downlinkBytes } = cost;
  const seconds =
    cost.flops / gemmFlopsPerSecond.value +
    (8 * uplinkBytes) / link.uplinkBitsPerSecond.value +
    (8 * downlinkBytes) / link.downlinkBitsPerSecond.value +
    (cost.roundTrips * link.roundTripMs.value) / 1000;
  // The board is awake for the whole round, so waiting is counted at the active power too: an upper bound.
  const watts = power?.activeWatts?.value;
  const joules = watts === undefined ? undefined : seconds * watts;
  const figure = (name: FigureName, value: number | undefined): RoundFigure => ({
    name,
    unit: units[name],
    value,
    ...strictest(limitsOf(name, judged)),
  });
  return [
    figure("peakMemoryBytes", peakMemoryBytes),
    figure("uplinkBytes", uplinkBytes),
    figure("downlinkBytes", downlinkBytes),
    figure("bytes", uplinkBytes + downlinkBytes),
    figure("seconds", seconds),
    figure("joules", joules),
  ];
}

type Limit = Required<Pick<RoundFigure, "limit" | "limitedBy">>;

/** Every limit on a figure; of equal ones the device's is named first. */
function limitsOf(name: FigureName, { profile, budget, limits = {} }: Judged): Limit[] {
  const { availableBytes, limitBytes = availableBytes } = profile.memory;
  const free: Limit[] =
    name === "peakMemoryBytes"
      ? [availableBytes, limitBytes].map(({ value }) => ({
          limit: value,
          limitedBy: "free memory",
        }))
      : [];
  return [
    { limit: budget[budgetFields[name]], limitedBy: "device" },
    { limit: limits[budgetFields[name]], limitedBy: "task" },
    ...free,
  ];
}

function strictest(limits: readonly Limit[]): Limit | { readonly limit: undefined } {
  const given = limits.filter(({ limit }) => limit !== undefined);
  const [first] = given.toSorted((a, b) => (a.limit ?? 0) - (b.limit ?? 0));
  return first ?? { limit: undefined };
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

function rejectionText(figure: RoundFigure): string {
  const { name, unit, value, limit, limitedBy } = figure;
  const suffix = limitedBy === "task" ? ", the task's limit" : "";
  if (value === undefined) {
    const allowed = formatQuantity(limit ?? 0, unit);
    return `cannot be held to ${allowed} ${wording[name]}${suffix}: the profile has no active power`;
  }
  const what = limitedBy === "free memory" ? limitedBy : wording[name];
  return `needs ${comparison(figure)} ${what}${suffix}`;
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

const units: { readonly [N in FigureName]: RoundFigure["unit"] } = {
  peakMemoryBytes: "bytes",
  uplinkBytes: "bytes",
  downlinkBytes: "bytes",
  bytes: "bytes",
  seconds: "seconds",
  joules: "joules",
};

const budgetFields: { readonly [N in FigureName]: keyof DeviceBudget } = {
  peakMemoryBytes: "trainingMemoryBytes",
  uplinkBytes: "uplinkBytesPerRound",
  downlinkBytes: "downlinkBytesPerRound",
  bytes: "bytesPerRound",
  seconds: "secondsPerRound",
  joules: "joulesPerRound",
};

const wording: { readonly [N in FigureName]: string } = {
  peakMemoryBytes: "training memory",
  uplinkBytes: "uplink a round",
  downlinkBytes: "downlink a round",
  bytes: "traffic a round",
  seconds: "time a round",
  joules: "energy a round",
};
