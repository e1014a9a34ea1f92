// The buffered mean of asynchronous rounds (FedBuff: Nguyen et al. 2022, arXiv 2106.06639, algorithm 1): K updates, each
// weighted by how old the parameters were that it started from.
import type { Parameters } from "../../runtime/index.ts";
import type { Contribution } from "../protocol.ts";
import { clipContribution } from "./clipping.ts";
import { contributionCheck, inDeviceOrder } from "./contributions.ts";
import { weightedSums } from "./mean.ts";
import type { AggregationOptions } from "./options.ts";

/** A contribution to a buffer. */
export interface StaleContribution extends Contribution {
  /** Versions of the global model between the one that the device started from and the current one (tau). */
  readonly staleness: number;
}

/** s(tau) = 1 / sqrt(1 + tau): how much an update counts that started tau versions ago (section 5). */
export function stalenessWeight(staleness: number): number {
  return 1 / Math.sqrt(1 + staleness);
}

/**
 * sum(s(tau) * delta) / K over the K contributions of a buffer, per tensor over those that carry it: old updates count less and
 * make the step shorter. Every update counts alike, whatever its examples, as in the paper; a quick device may be in the buffer
 * more than once. Summed in float64 in device-id order, those of one device in the order given. Throws as `UpdateAccumulator.add`
 * does.
 */
export function bufferedMean(
  contributions: Iterable<StaleContribution>,
  { maximumNorm = Number.POSITIVE_INFINITY }: Pick<AggregationOptions, "maximumNorm"> = {},
): Parameters {
  const sums = weightedSums();
  const check = contributionCheck({ mayRepeat: true });
  for (const contribution of inDeviceOrder(contributions)) {
    check(contribution);
    const { update } = clipContribution(contribution, maximumNorm);
    sums.add(update, { factor: stalenessWeight(contribution.staleness), weight: 1 });
  }
  return sums.mean();
}
