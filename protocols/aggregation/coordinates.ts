// Coordinate-wise trimmed mean and median (Yin et al. 2018, arXiv 1803.01498, definitions 1 and 2): each value of the
// update by itself, over the devices that hold it. Devices count alike: a weight is what a device says of itself, and one that
// lies about its update would lie about its examples, too.
import { type Float32Tensor, float32, type Parameters } from "../../runtime/index.ts";
import type { Contribution } from "../protocol.ts";
import { forEachLeading, widestShape } from "./factors.ts";

/** What becomes of the values of one coordinate, sorted, at least one. */
export type Reduce = (sorted: Float64Array) => number;

/** The middle value, or the mean of the two in the middle. */
export const medianOf: Reduce = (sorted) => {
  const middle = sorted.length >> 1;
  const upper = sorted[middle] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2;
};

/** Mean without the smallest and largest values: ceil(fraction * count) at each end, but never the last one or two. */
export function trimmedMeanOf(fraction: number): Reduce {
  return (sorted) => {
    const { length } = sorted;
    // A product such as 0.07 * 100 may be a little above its whole number.
    const asked = Math.ceil(fraction * length - 1e-9);
    const dropped = Math.min(asked, (length - 1) >> 1);
    let sum = 0;
    for (let i = dropped; i < length - dropped; i++) sum += sorted[i] as number;
    return sum / (length - 2 * dropped);
  };
}

/** Reduces contributions value by value, each over its holders; tensors in name order. */
export function reduceCoordinates(
  contributions: readonly Contribution[],
  reduce: Reduce,
): Parameters {
  const holders = new Map<string, Float32Tensor[]>();
  for (const { update } of contributions) {
    for (const [name, tensor] of update) holders.set(name, [...(holders.get(name) ?? []), tensor]);
  }
  const names = [...holders.keys()].sort();
  return new Map(names.map((name) => [name, reduced(holders.get(name) ?? [], reduce)]));
}

function reduced(holders: readonly Float32Tensor[], reduce: Reduce): Float32Tensor {
  const shape = widestShape(holders.map((tensor) => tensor.shape));
  const result = float32(shape);
  const values = new Float64Array(holders.length);
  const readers = holders.map(readerOf);
  forEachLeading(shape, shape, (_, at, row, column) => {
    let count = 0;
    for (const read of readers) {
      const value = read(row, column);
      if (value !== undefined) values[count++] = value;
    }
    result.data[at] = reduce(values.subarray(0, count).sort());
  });
  return result;
}

/** Reads a value of a matrix, undefined beyond its ranks. */
function readerOf({
  shape,
  data,
}: Float32Tensor): (row: number, column: number) => number | undefined {
  const columns = shape.at(-1) ?? 1;
  return (row, column) => (column < columns ? data[row * columns + column] : undefined);
}
