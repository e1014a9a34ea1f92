// The weighted mean of updates (FedAvg: McMahan et al. 2017, arXiv 1602.05629, algorithm 1), tensor by
// tensor over the contributions that carry it, so that boards with different parts of the model enter one mean.
import { elementCount, type Float32Tensor, float32, type Parameters } from "../../runtime/index.ts";
import type { Contribution } from "../protocol.ts";
import { contributionCheck, inDeviceOrder } from "./contributions.ts";
import { copyLeading, forEachLeading, rankAxis } from "./factors.ts";

/** An aggregation in the making. */
export interface UpdateAccumulator {
  /**
   * Adds a contribution. They come in device-id order (`compareDeviceIds`); one device may come more than once as long
   * as its tensors differ, so front and tail count alike in one bundle or in two.
   * Throws and adds nothing: `AGGREGATION_ORDER_INVALID`, `PROTOCOL_WEIGHT_INVALID`, `PROTOCOL_SHAPE_MISMATCH`, `PROTOCOL_TENSOR_INVALID`.
   */
  add(contribution: Contribution): void;
  /** The combined update, tensors in name order; a tensor that nobody carried is absent, and ranks that nobody carried are cut off. */
  finish(): Parameters;
}

/**
 * Mean of the contributions' updates, each counted `weight` times.
 *
 * Summed in float64 in device-id order, so equal contributions give equal bytes in whatever order they came.
 * Throws as `UpdateAccumulator.add` does.
 */
export function weightedMean(contributions: Iterable<Contribution>): Parameters {
  const mean = meanAccumulator();
  for (const contribution of inDeviceOrder(contributions)) mean.add(contribution);
  return mean.finish();
}

/**
 * An empty mean that takes contributions one by one: memory for one float64 sum per value, however many come. Factors may come
 * with different ranks: a rank is averaged over those that hold it (zeros for the others would pull it to zero).
 */
export function meanAccumulator(): UpdateAccumulator {
  const sums = weightedSums();
  const check = contributionCheck();
  return {
    add: (contribution) => {
      check(contribution);
      const { update, weight } = contribution;
      sums.add(update, { factor: weight, weight });
    },
    finish: () => sums.mean(),
  };
}

/** How much an update counts in a sum, and how much in what the sum is divided by. */
export interface Share {
  readonly factor: number;
  readonly weight: number;
}

/** Sums of factor * value by tensor, of updates that are known to fit, and the sums divided by the weights of the holders. */
export function weightedSums(): {
  add(update: Parameters, share: Share): void;
  mean(): Parameters;
} {
  const sums = new Map<string, Sum>();
  return {
    add: (update, share) => {
      for (const [name, tensor] of update) {
        const sum = widened(sums.get(name) ?? emptySum(name, tensor.shape), tensor.shape);
        addTo(sum, tensor, share);
        sums.set(name, sum);
      }
    },
    mean: () => {
      const names = [...sums.keys()].sort();
      return new Map(names.map((name) => [name, meanOf(sums.get(name) as Sum)]));
    },
  };
}

/** Sum of factor * value over the holders of one tensor. */
interface Sum {
  readonly shape: readonly number[];
  readonly values: Float64Array;
  /** The holders' weights by rank of a factor, of other tensors one for all values. */
  readonly weights: Float64Array;
  readonly axis: 0 | 1 | undefined;
}

function emptySum(name: string, shape: readonly number[]): Sum {
  const axis = rankAxis(name);
  const weights = new Float64Array(axis === undefined ? 1 : (shape[axis] as number));
  return { shape, values: new Float64Array(elementCount(shape)), weights, axis };
}

/** The sum with room for as many ranks as a tensor of this shape has. */
function widened(sum: Sum, part: readonly number[]): Sum {
  const { axis, values, weights } = sum;
  if (axis === undefined || (part[axis] as number) <= weights.length) return sum;
  const next = { shape: part, values: new Float64Array(elementCount(part)), axis };
  copyLeading({ shape: sum.shape, data: values }, { shape: part, data: next.values });
  const wider = new Float64Array(part[axis] as number);
  wider.set(weights);
  return { ...next, weights: wider };
}

function addTo(
  { shape, values, weights, axis }: Sum,
  tensor: Float32Tensor,
  { factor, weight }: Share,
): void {
  forEachLeading(tensor.shape, shape, (at, inWhole) => {
    values[inWhole] = (values[inWhole] as number) + factor * (tensor.data[at] as number);
  });
  const held = axis === undefined ? 1 : (tensor.shape[axis] as number);
  for (let rank = 0; rank < held; rank++) weights[rank] = (weights[rank] as number) + weight;
}

function meanOf({ shape, values, weights, axis }: Sum): Float32Tensor {
  const mean = float32(shape);
  forEachLeading(shape, shape, (_, at, row, column) => {
    const rank = axis === undefined ? 0 : ([row, column][axis] as number);
    mean.data[at] = (values[at] as number) / (weights[rank] as number);
  });
  return mean;
}
