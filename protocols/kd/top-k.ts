// How many logits of each row travel: the task's number, or as many as hold a share of the probability, fewer where
// the device's link does not carry those (after Zhang et al. 2025, arXiv 2509.01750: k follows the link).
import type { DeviceBudget, DeviceProfile } from "../../devices/index.ts";
import type { Task } from "../task.ts";
import type { Allowance } from "../way.ts";
import { packedByteLength } from "./logits.ts";
import {
  keepCounts,
  type RankedLogits,
  type RankedRow,
  type SparseLogits,
} from "./sparse-logits.ts";
import type { LogitEncoding } from "./value-codes.ts";

/** Most logits of a row that an adaptive choice keeps: what more of them add is small beside their bytes and memory. */
const adaptiveCeiling = 512;

/** Most logits of a row that a task may keep. */
export function mostKept({ kd: { topK } }: Task, classes: number): number {
  return Math.min(classes, topK === "adaptive" ? adaptiveCeiling : topK);
}

/**
 * What a device's link carries in the seconds that the task gives each way, within the device's own limits; undefined
 * for a fixed k.
 */
export function allowanceOf(
  { kd }: Task,
  { profile, budget }: { readonly profile: DeviceProfile; readonly budget: DeviceBudget },
): Allowance | undefined {
  if (kd.topK !== "adaptive") return undefined;
  const { uplinkBitsPerSecond, downlinkBitsPerSecond } = profile.link;
  const within = (bitsPerSecond: number, limit = Number.POSITIVE_INFINITY) =>
    Math.floor(Math.min((bitsPerSecond / 8) * kd.linkSeconds, limit * bodyShare));
  return {
    uplinkBytes: within(uplinkBitsPerSecond.value, budget.uplinkBytesPerRound),
    downlinkBytes: within(downlinkBitsPerSecond.value, budget.downlinkBytesPerRound),
  };
}

/** What a choice is bound to. */
export interface Choice {
  readonly task: Task;
  readonly encoding: LogitEncoding;
  /** Most bytes of the packed logits; without it only the share counts. */
  readonly mostBytes?: number | undefined;
}

/**
 * Keeps the task's k of each row, or adaptively of each row the fewest that hold `kd.keptMass` of its probability at the
 * task's temperature. Where these take more than `mostBytes`, the share falls for all rows alike until they fit, so
 * that rows which are sure of few classes leave their bytes to those that are not.
 */
export function chooseLogits(ranked: RankedLogits, choice: Choice): SparseLogits {
  const { kd } = choice.task;
  if (kd.topK !== "adaptive")
    return keepCounts(
      ranked,
      ranked.rows.map(({ values }) => values.length),
    );
  const masses = ranked.rows.map((row) => cumulativeMass(row, ranked.temperature));
  const countsAt = (share: number) => masses.map((mass) => countFor(mass, share));
  const { mostBytes = Number.POSITIVE_INFINITY, encoding } = choice;
  const fits = (share: number) =>
    packedBytes(countsAt(share), ranked.classes, encoding) <= mostBytes;
  return keepCounts(
    ranked,
    countsAt(fits(kd.keptMass) ? kd.keptMass : largestShare(fits, kd.keptMass)),
  );
}

/** Bytes of rows that keep so many logits each. */
export function packedBytes(
  counts: readonly number[],
  classes: number,
  encoding: LogitEncoding,
): number {
  const kept = counts.reduce((most, count) => Math.max(most, count), 1);
  const isCounted = counts.some((count) => count !== kept);
  return packedByteLength(counts, { classes, kept, isCounted, encoding });
}

// A budget counts whole packets: headers and fields take about a twentieth.
const bodyShare = 0.95;

/** Share of a row's probability that its first, its first two ... logits hold. */
function cumulativeMass({ values, beyond }: RankedRow, temperature: number): Float64Array {
  const largest = Math.max(values[0] as number, beyond);
  const weight = (logit: number) => Math.exp((logit - largest) / temperature);
  const sums = new Float64Array(values.length);
  let sum = 0;
  values.forEach((value, i) => {
    sum += weight(value);
    sums[i] = sum;
  });
  const total = sum + weight(beyond);
  return sums.map((part) => part / total);
}

/** The fewest logits that hold the share; all when they hold less. */
function countFor(mass: Float64Array, share: number): number {
  let low = 1;
  let high = mass.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((mass[middle - 1] as number) >= share) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The largest share that fits, to a part in a thousand; 0, one logit a row, when none does. */
function largestShare(fits: (share: number) => boolean, most: number): number {
  let low = 0;
  let high = most;
  while (high - low > most / 1000) {
    const middle = (low + high) / 2;
    if (fits(middle)) low = middle;
    else high = middle;
  }
  return low;
}
