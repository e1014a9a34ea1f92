// One distribution of many voices, row by row: the devices' and the global model's own. All in float64, voices in their
// order.
import type { SparseLogits } from "./sparse-logits.ts";

/** Ways to weigh voices beside their numbers of examples. */
export const aggregations = ["mean", "entropy", "confidence", "perClass"] as const;
export type Aggregation = (typeof aggregations)[number];

/** A row of logits and the temperature at which it is a distribution. */
export interface RowOf {
  readonly logits: SparseLogits;
  readonly row: number;
  readonly temperature: number;
}

/**
 * Fills `into` with a row's distribution. What its dropped classes weigh together is known; it is spread over them in the
 * proportions of `shape`, evenly without one. So whatever k a voice kept, each class gets the mass that the
 * voice gave it or the dropped ones as a whole, and the mean of voices is unbiased where zeros would take mass from them.
 */
export function distributionOf(
  { logits, row, temperature }: RowOf,
  into: Float64Array,
  shape?: Float64Array,
): void {
  const { classes, starts, indices, values, rests } = logits;
  const [from, to] = [starts[row] as number, starts[row + 1] as number];
  const rest = to - from < classes ? (rests[row] as number) : Number.NEGATIVE_INFINITY;
  let largest = rest;
  for (let i = from; i < to; i++) largest = Math.max(largest, values[i] as number);
  const weight = (logit: number) => Math.exp((logit - largest) / temperature);
  let total = weight(rest);
  for (let i = from; i < to; i++) total += weight(values[i] as number);
  if (to - from < classes) spread(weight(rest) / total, indices.subarray(from, to), into, shape);
  for (let i = from; i < to; i++) into[indices[i] as number] = weight(values[i] as number) / total;
}

/** Fills `into` with the distribution of all logits of a row. */
export function softmaxInto(logits: Float32Array, temperature: number, into: Float64Array): void {
  const largest = logits.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  let total = 0;
  for (let c = 0; c < into.length; c++) {
    const weight = Math.exp(((logits[c] as number) - largest) / temperature);
    into[c] = weight;
    total += weight;
  }
  for (let c = 0; c < into.length; c++) into[c] = (into[c] as number) / total;
}

/** How much each voice counts, and under `perClass` what it knows of each class. */
export interface Standing {
  readonly weight: number;
  /** Share of the voice's whole opinion on the public texts that each class holds. */
  readonly classShares?: Float64Array | undefined;
}

/** Mixes the voices' distributions of one row into `into`, which then sums to 1. */
export function mix(
  aggregation: Aggregation,
  standings: readonly Standing[],
  distributions: readonly Float64Array[],
  into: Float64Array,
): void {
  into.fill(0);
  if (aggregation === "perClass") mixPerClass(standings, distributions, into);
  else {
    const factors = relative(distributions.map(trusts[aggregation]));
    const weights = standings.map(({ weight }, i) => weight * (factors[i] as number));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    distributions.forEach((distribution, i) => {
      const share = (weights[i] as number) / total;
      for (let c = 0; c < into.length; c++)
        into[c] = (into[c] as number) + share * (distribution[c] as number);
    });
  }
}

/** The mean distribution of rows; dropped mass is spread evenly. */
export function classSharesOf(logits: SparseLogits, temperature: number): Float64Array {
  const sum = new Float64Array(logits.classes);
  const one = new Float64Array(logits.classes);
  for (let row = 0; row < logits.rows; row++) {
    distributionOf({ logits, row, temperature }, one);
    for (let c = 0; c < one.length; c++) sum[c] = (sum[c] as number) + (one[c] as number);
  }
  return sum.map((share) => share / logits.rows);
}

/** How far a voice is trusted on one row, 0..1, from what it says of it. */
const trusts: {
  readonly [A in Exclude<Aggregation, "perClass">]: (distribution: Float64Array) => number;
} = {
  mean: () => 1,
  /** 1 - H / log(classes): 0 for the even distribution, 1 for a certain one. */
  entropy: (distribution) => {
    let entropy = 0;
    for (const p of distribution) if (p > 0) entropy -= p * Math.log(p);
    return Math.max(0, 1 - entropy / Math.log(distribution.length));
  },
  confidence: (distribution) => distribution.reduce((most, p) => Math.max(most, p), 0),
};

/**
 * Each class by the voices that know it: voice v counts w_v s_v(c) of its p_v(c), s_v(c) being how much of its opinion on
 * all public texts class c holds, and the row is scaled back to 1. Voices of equal shares give their weighted mean.
 */
function mixPerClass(
  standings: readonly Standing[],
  distributions: readonly Float64Array[],
  into: Float64Array,
): void {
  const shares = standings.map(({ classShares = new Float64Array() }) => classShares);
  let sum = 0;
  for (let c = 0; c < into.length; c++) {
    const factors = relative(shares.map((share) => share[c] ?? 0));
    const weights = standings.map(({ weight }, v) => weight * (factors[v] as number));
    const total = weights.reduce((all, weight) => all + weight, 0);
    let mean = 0;
    distributions.forEach((distribution, v) => {
      mean += ((weights[v] as number) / total) * (distribution[c] as number);
    });
    into[c] = mean;
    sum += mean;
  }
  // Of equal shares the sum is 1 but for rounding, and the mean stays what it is.
  if (Math.abs(sum - 1) < 1e-12) return;
  for (let c = 0; c < into.length; c++) into[c] = (into[c] as number) / sum;
}

/** Factors as parts of the largest, so that equal ones are exactly 1; all 1 where the largest is 0. */
function relative(factors: readonly number[]): readonly number[] {
  const largest = factors.reduce((most, factor) => Math.max(most, factor), 0);
  return factors.map((factor) => (largest > 0 ? factor / largest : 1));
}

function spread(
  mass: number,
  kept: Uint32Array,
  into: Float64Array,
  shape: Float64Array | undefined,
): void {
  if (shape) {
    let own = shape.reduce((sum, p) => sum + p, 0);
    for (const index of kept) own -= shape[index] as number;
    // A shape that is all but sure of the kept classes says nothing of the others but rounding.
    if (own > 1e-9) {
      for (let c = 0; c < into.length; c++) into[c] = (mass * (shape[c] as number)) / own;
      return;
    }
  }
  into.fill(mass / (into.length - kept.length));
}
