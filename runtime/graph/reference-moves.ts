// Kernels that move elements without computing on them; ScatterElements adds where indices repeat.
import { elementCount } from "../tensor.ts";
import type { Value } from "./ir.ts";
import type { OpAttributes } from "./ops.ts";
import { at, broadcastSteps, type Dense, operand, positions, strides } from "./reference-dense.ts";

/** Output axis i is input axis perm[i]. */
export function transpose(
  inputs: readonly Dense[],
  { perm }: OpAttributes["Transpose"],
  outputs: readonly Value[],
): readonly Float64Array[] {
  const x = operand(inputs, 0);
  const steps = strides(x.shape);
  const permuted = perm.map((axis) => at(steps, axis));
  return [read(x.data, positions(shapeOf(outputs), permuted))];
}

/** Repeats along axes of size 1. */
export function expand(
  inputs: readonly Dense[],
  { shape }: OpAttributes["Expand"],
): readonly Float64Array[] {
  const x = operand(inputs, 0);
  return [read(x.data, positions(shape, broadcastSteps(x.shape, shape)))];
}

/** Inputs one behind another along an axis. */
export function concat(
  inputs: readonly Dense[],
  { axis }: OpAttributes["Concat"],
  outputs: readonly Value[],
): readonly Float64Array[] {
  const shape = shapeOf(outputs);
  const steps = strides(shape);
  const result = new Float64Array(elementCount(shape));
  let start = 0;
  for (const input of inputs) {
    const targets = positions(input.shape, steps, start * at(steps, axis));
    targets.forEach((target, i) => {
      result[target] = at(input.data, i);
    });
    start += at(input.shape, axis);
  }
  return [result];
}

/** Pieces of given sizes along an axis: the inverse of concat. */
export function split(
  inputs: readonly Dense[],
  { axis }: OpAttributes["Split"],
  outputs: readonly Value[],
): readonly Float64Array[] {
  const x = operand(inputs, 0);
  const steps = strides(x.shape);
  let start = 0;
  return outputs.map(({ shape }) => {
    const piece = read(x.data, positions(shape, steps, start * at(steps, axis)));
    start += at(shape, axis);
    return piece;
  });
}

/** Rows of a table: out[i..., :] = table[indices[i...], :]. */
export function gather(inputs: readonly Dense[]): readonly Float64Array[] {
  const [table, indices] = [operand(inputs, 0), operand(inputs, 1)];
  const rows = at(table.shape, 0);
  const width = elementCount(table.shape.slice(1));
  const result = new Float64Array(indices.data.length * width);
  indices.data.forEach((index, i) => {
    const start = checkIndex(index, rows) * width;
    result.set(table.data.subarray(start, start + width), i * width);
  });
  return [result];
}

/** out[i][j] = x[indices[i][j]][j] for axis 0, likewise for others. */
export function gatherElements(
  inputs: readonly Dense[],
  { axis }: OpAttributes["GatherElements"],
): readonly Float64Array[] {
  const [x, indices] = [operand(inputs, 0), operand(inputs, 1)];
  return [read(x.data, indexedPositions(x, indices, axis))];
}

/** A copy of x with x[indices[i][j]][j] += updates[i][j] for axis 0, likewise for others. */
export function scatterElements(
  inputs: readonly Dense[],
  { axis }: OpAttributes["ScatterElements"],
): readonly Float64Array[] {
  const [x, indices, updates] = [operand(inputs, 0), operand(inputs, 1), operand(inputs, 2)];
  const result = x.data.slice();
  indexedPositions(x, indices, axis).forEach((target, i) => {
    result[target] = at(result, target) + at(updates.data, i);
  });
  return [result];
}

/** Where in x each index points: its own place, with the coordinate on `axis` replaced by the index. */
function indexedPositions(x: Dense, indices: Dense, axis: number): Float64Array {
  const steps = strides(x.shape);
  const others = steps.map((step, i) => (i === axis ? 0 : step));
  return positions(indices.shape, others).map((position, i) => {
    const index = checkIndex(at(indices.data, i), at(x.shape, axis));
    return position + index * at(steps, axis);
  });
}

/** ONNX counts negative indices from the end. */
function checkIndex(index: number, size: number): number {
  if (index < -size || index >= size) {
    throw new RangeError(`index ${index} is out of range for an axis of size ${size}`);
  }
  return index < 0 ? index + size : index;
}

function read(data: Float64Array, from: Float64Array): Float64Array {
  return from.map((position) => at(data, position));
}

function shapeOf(outputs: readonly Value[]): readonly number[] {
  return outputs[0]?.shape ?? [];
}
