// What the interpreter computes on: float64 elements with a shape. Token ids and truth values are numbers
// too, exact up to 2^53. One idea carries broadcasting, transposing, slicing and reducing: `positions`.
import { elementCount } from "../tensor.ts";

/** Row-major elements; int64 as whole numbers, bool as 0 and 1. */
export interface Dense {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** How far apart two neighbours along each axis lie in row-major order. */
export function strides(shape: readonly number[]): number[] {
  const result = new Array<number>(shape.length).fill(1);
  for (let axis = shape.length - 2; axis >= 0; axis--) {
    result[axis] = at(result, axis + 1) * at(shape, axis + 1);
  }
  return result;
}

/**
 * For each element of `shape`, in order, where it lies in memory that is walked with `steps`:
 * base + sum over axes of index * step. A step of 0 repeats (broadcasting) or accumulates (reducing).
 */
export function positions(
  shape: readonly number[],
  steps: readonly number[],
  base = 0,
): Float64Array {
  const result = new Float64Array(elementCount(shape));
  const index = new Array<number>(shape.length).fill(0);
  let position = base;
  for (let i = 0; i < result.length; i++) {
    result[i] = position;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = at(index, axis) + 1;
      position += at(steps, axis);
      if (at(index, axis) < at(shape, axis)) break;
      position -= at(index, axis) * at(steps, axis);
      index[axis] = 0;
    }
  }
  return result;
}

/** Steps through `from` when it is broadcast to `to`: sizes align at the right, 1 repeats. */
export function broadcastSteps(from: readonly number[], to: readonly number[]): number[] {
  const own = strides(from);
  const missing = to.length - from.length;
  return to.map((_, axis) => {
    const source = axis - missing;
    return source < 0 || from[source] === 1 ? 0 : at(own, source);
  });
}

/** The element at a place that is known to exist. */
export function at(list: ArrayLike<number>, index: number): number {
  return list[index] as number;
}

/** An operand that the operator's shape rule has already required. */
export function operand(inputs: readonly Dense[], index: number): Dense {
  return inputs[index] as Dense;
}
