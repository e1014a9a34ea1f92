// Kernels that combine elements: broadcast arithmetic, products, reductions, softmax, normalisation.
import { elementCount } from "../tensor.ts";
import type { Value } from "./ir.ts";
import type { OpAttributes } from "./ops.ts";
import { at, broadcastSteps, type Dense, operand, positions, strides } from "./reference-dense.ts";

/** A broadcast operator of two operands. */
export function combine(f: (a: number, b: number) => number) {
  return (
    inputs: readonly Dense[],
    _attributes: unknown,
    outputs: readonly Value[],
  ): readonly Float64Array[] => {
    const [a, b] = [operand(inputs, 0), operand(inputs, 1)];
    const shape = outputs[0]?.shape ?? [];
    const fromA = positions(shape, broadcastSteps(a.shape, shape));
    const fromB = positions(shape, broadcastSteps(b.shape, shape));
    return [fromA.map((position, i) => f(at(a.data, position), at(b.data, at(fromB, i))))];
  };
}

/** [..., m, k] x [..., k, n] -> [..., m, n]. */
export function matMul(inputs: readonly Dense[]): readonly Float64Array[] {
  const [a, b] = [operand(inputs, 0), operand(inputs, 1)];
  const [m, k] = a.shape.slice(-2) as [number, number];
  const n = b.shape.at(-1) as number;
  const batches = elementCount(a.shape.slice(0, -2));
  const result = new Float64Array(batches * m * n);
  for (let batch = 0; batch < batches; batch++) {
    const left = a.data.subarray(batch * m * k, (batch + 1) * m * k);
    const right = b.data.subarray(batch * k * n, (batch + 1) * k * n);
    result.set(product(left, right, { m, k, n }), batch * m * n);
  }
  return [result];
}

/** alpha * op(A) op(B) + C. */
export function gemm(
  inputs: readonly Dense[],
  { alpha, transA, transB }: OpAttributes["Gemm"],
  outputs: readonly Value[],
): readonly Float64Array[] {
  const a = transA ? transposed(operand(inputs, 0)) : operand(inputs, 0);
  const b = transB ? transposed(operand(inputs, 1)) : operand(inputs, 1);
  const [m, k] = a.shape as [number, number];
  const n = at(b.shape, 1);
  const scaled = product(a.data, b.data, { m, k, n }).map((x) => alpha * x);
  const bias = inputs[2];
  if (!bias) return [scaled];
  const sum = combine((x, c) => x + c);
  return sum([{ shape: [m, n], data: scaled }, bias], {}, outputs);
}

/** Sum over axes. */
export function reduceSum(
  inputs: readonly Dense[],
  { axes }: OpAttributes["ReduceSum"],
): readonly Float64Array[] {
  const { sums } = fold(operand(inputs, 0), axes, (sum, x) => sum + x, 0);
  return [sums];
}

/** Mean over axes. */
export function reduceMean(
  inputs: readonly Dense[],
  { axes }: OpAttributes["ReduceMean"],
): readonly Float64Array[] {
  const x = operand(inputs, 0);
  const { sums } = fold(x, axes, (sum, value) => sum + value, 0);
  const count = axes.reduce((product, axis) => product * at(x.shape, axis), 1);
  return [sums.map((sum) => sum / count)];
}

/** exp(x) / sum(exp(x)) along the last axis. */
export function softmax(inputs: readonly Dense[]): readonly Float64Array[] {
  return [
    eachRow(operand(inputs, 0), (row) => {
      const largest = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
      const exponentials = row.map((x) => Math.exp(x - largest));
      const sum = exponentials.reduce((a, b) => a + b, 0);
      return exponentials.map((x) => x / sum);
    }),
  ];
}

/** log(sum(exp(x))) of each row, with the maximum taken out so that nothing overflows, and softmax(x). */
export function logSumExp(inputs: readonly Dense[]): readonly Float64Array[] {
  const x = operand(inputs, 0);
  const width = x.shape.at(-1) ?? 1;
  const rows = Float64Array.from({ length: x.data.length / width }, (_, i) => {
    const row = x.data.subarray(i * width, (i + 1) * width);
    const largest = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    return largest + Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0));
  });
  return [rows, ...softmax(inputs)];
}

/** (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis; also the mean and 1 / sqrt(variance + epsilon). */
export function layerNormalization(
  inputs: readonly Dense[],
  { epsilon }: OpAttributes["LayerNormalization"],
): readonly Float64Array[] {
  const x = operand(inputs, 0);
  const scale = operand(inputs, 1).data;
  const bias = inputs[2]?.data;
  const means: number[] = [];
  const inverseDeviations: number[] = [];
  const y = eachRow(x, (row) => {
    const mean = row.reduce((a, b) => a + b, 0) / row.length;
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length;
    const inverseDeviation = 1 / Math.sqrt(variance + epsilon);
    means.push(mean);
    inverseDeviations.push(inverseDeviation);
    return row.map(
      (value, i) => (value - mean) * inverseDeviation * at(scale, i) + (bias?.[i] ?? 0),
    );
  });
  return [y, Float64Array.from(means), Float64Array.from(inverseDeviations)];
}

/** x / sqrt(mean(x^2) + epsilon) * scale over the last axis. */
export function rmsNormalization(
  inputs: readonly Dense[],
  { epsilon }: OpAttributes["RMSNormalization"],
): readonly Float64Array[] {
  const scale = operand(inputs, 1).data;
  return [
    eachRow(operand(inputs, 0), (row) => {
      const meanSquare = row.reduce((sum, x) => sum + x * x, 0) / row.length;
      return row.map((x, i) => (x / Math.sqrt(meanSquare + epsilon)) * at(scale, i));
    }),
  ];
}

/** Each pair (x[i], x[i + half]) of each head times the rotation (cos, -sin; sin, cos) of its position. */
export function rotaryEmbedding(
  inputs: readonly Dense[],
  { heads }: OpAttributes["RotaryEmbedding"],
): readonly Float64Array[] {
  const [x, cos, sin] = [operand(inputs, 0), operand(inputs, 1).data, operand(inputs, 2).data];
  const positions = operand(inputs, 3).data;
  const width = at(x.shape, 2);
  const size = width / heads;
  const half = size / 2;
  const y = x.data.map((value, place) => {
    const angle = at(positions, Math.floor(place / width)) * half + (place % half);
    const isFirst = place % size < half;
    const other = isFirst ? -at(x.data, place + half) : at(x.data, place - half);
    return value * at(cos, angle) + other * at(sin, angle);
  });
  return [y];
}

/** Row-major [m, k] x [k, n] -> [m, n]. */
function product(
  a: Float64Array,
  b: Float64Array,
  { m, k, n }: Readonly<Record<"m" | "k" | "n", number>>,
): Float64Array {
  const result = new Float64Array(m * n);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += at(a, row * k + i) * at(b, i * n + column);
      result[row * n + column] = sum;
    }
  }
  return result;
}

function transposed({ shape, data }: Dense): Dense {
  const [rows, columns] = shape as [number, number];
  const from = positions([columns, rows], [1, columns]);
  return { shape: [columns, rows], data: from.map((position) => at(data, position)) };
}

/** Folds elements over axes; `targets` tells for each element of x where in `sums` it went. */
function fold(
  x: Dense,
  axes: readonly number[],
  f: (sum: number, value: number) => number,
  start: number,
): { readonly sums: Float64Array; readonly targets: Float64Array } {
  const kept = x.shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
  const steps = strides(kept).map((step, axis) => (axes.includes(axis) ? 0 : step));
  const targets = positions(x.shape, steps);
  const sums = new Float64Array(elementCount(kept)).fill(start);
  targets.forEach((target, i) => {
    sums[target] = f(at(sums, target), at(x.data, i));
  });
  return { sums, targets };
}

function eachRow(x: Dense, f: (row: Float64Array) => Float64Array): Float64Array {
  const width = x.shape.at(-1) ?? 1;
  const result = new Float64Array(x.data.length);
  for (let start = 0; start < x.data.length; start += width) {
    result.set(f(x.data.subarray(start, start + width)), start);
  }
  return result;
}
