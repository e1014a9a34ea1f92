// The table of ONNX operators that Trifold builds graphs of (opset 23): attributes and shape rules.
// Adding an operator here makes the compiler ask for its interpreter, its export and its gradient.
import { runtimeErrors } from "../errors.ts";
import { elementCount, sameShape } from "../tensor.ts";
import type { Value, ValueType } from "./ir.ts";

type None = Readonly<Record<never, never>>;
interface Axis {
  readonly axis: number;
}
interface Reduction {
  /** Non-negative, ascending. */
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

/** Attributes of each operator. Axes are non-negative; what newer opsets pass as inputs (shapes, axes, sizes) is an attribute here. */
export interface OpAttributes {
  readonly Add: None;
  readonly Sub: None;
  readonly Mul: None;
  readonly Div: None;
  readonly Neg: None;
  readonly Exp: None;
  readonly Log: None;
  readonly Sqrt: None;
  readonly Tanh: None;
  readonly Sigmoid: None;
  /** Gelu-20, tanh approximation. */
  readonly Gelu: None;
  /** [..., m, k] x [..., k, n], equal leading sizes. */
  readonly MatMul: None;
  /** alpha * op(A) op(B) + C, A and B of rank 2; C optional, of shape [m, n] or [n]. */
  readonly Gemm: { readonly alpha: number; readonly transA: boolean; readonly transB: boolean };
  readonly Reshape: { readonly shape: readonly number[] };
  readonly Transpose: { readonly perm: readonly number[] };
  readonly Expand: { readonly shape: readonly number[] };
  readonly Concat: Axis;
  readonly Split: Axis & { readonly sizes: readonly number[] };
  readonly ReduceSum: Reduction;
  readonly ReduceMean: Reduction;
  /** Along the last axis. */
  readonly Softmax: None;
  /**
   * Along the last axis, which is dropped: log(sum(exp(x))), and softmax(x) beside it for the gradient. Written as Softmax-13
   * and ReduceMax-20: over a vocabulary of 50,257 a quarter of the time that ReduceLogSumExp takes (ONNX Runtime 1.30).
   */
  readonly LogSumExp: None;
  /** Over the last axis; outputs y, mean and inverse standard deviation ([..., 1]). LayerNormalization-17. */
  readonly LayerNormalization: { readonly epsilon: number };
  /** x / sqrt(mean(x^2) + epsilon) * scale over the last axis (Zhang, Sennrich 2019). RMSNormalization-23. */
  readonly RMSNormalization: { readonly epsilon: number };
  /**
   * (x [batch, seq, heads * size], cos, sin [positions, size / 2], int64 positions [batch, seq]): turns element i
   * of a head against element i + size / 2 by its position's angle (Su et al. 2021, halves as Hugging Face splits
   * them). The tables have no gradient and, for ONNX Runtime, no fewer positions than seq. RotaryEmbedding-23.
   */
  readonly RotaryEmbedding: { readonly heads: number };
  /** Rows of a [rows, ...] table by int64 indices; axis 0. */
  readonly Gather: None;
  readonly GatherElements: Axis;
  /** (data, indices, updates), reduction "add": repeated indices accumulate. */
  readonly ScatterElements: Axis;
  readonly Cast: { readonly to: "float32" | "int64" | "bool" };
  /**
   * (x, scale, after): x int8 or int4 [rows, columns] times scale [rows / blockSize, columns], each row of scales for
   * a block of rows. It waits for `after`, a float32 value of any shape that it does not read: ONNX Runtime would
   * compute what depends on constants alone at the start and keep it. DequantizeLinear-21, axis 0.
   */
  readonly DequantizeLinear: { readonly blockSize: number };
}

/** Name of an operator in the table. */
export type OpName = keyof OpAttributes;

/** Type and shape of a node's output before it has a name. */
export interface ValueSpec {
  readonly dtype: ValueType;
  readonly shape: readonly number[];
}

type ShapeRule<K extends OpName> = (
  inputs: readonly Value[],
  attributes: OpAttributes[K],
) => readonly ValueSpec[];

/** Output types and shapes of each operator; throws `GRAPH_INVALID` when inputs do not fit. */
export const shapeRules: { readonly [K in OpName]: ShapeRule<K> } = {
  Add: broadcastRule,
  Sub: broadcastRule,
  Mul: broadcastRule,
  Div: broadcastRule,
  Neg: sameRule,
  Exp: floatRule,
  Log: floatRule,
  Sqrt: floatRule,
  Tanh: floatRule,
  Sigmoid: floatRule,
  Gelu: floatRule,
  Softmax: (inputs) => {
    check(inputs[0]?.shape.length !== 0, "Softmax", inputs);
    return floatRule(inputs);
  },
  MatMul: (inputs) => {
    const [a, b] = pair("MatMul", inputs);
    const [m, k] = a.shape.slice(-2) as [number, number];
    const [k2, n] = b.shape.slice(-2) as [number, number];
    const fits = k === k2 && sameShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
    check(fits && a.shape.length >= 2 && inputs.every(isFloat), "MatMul", inputs);
    return [{ dtype: "float32", shape: [...a.shape.slice(0, -2), m, n] }];
  },
  Gemm: (inputs, { transA, transB }) => {
    const [a, b] = pair("Gemm", inputs, 3);
    const fits = a.shape.length === 2 && b.shape.length === 2;
    check(fits && inputs.every(isFloat), "Gemm", inputs);
    const [m, k] = transA ? [a.shape[1], a.shape[0]] : a.shape;
    const [k2, n] = transB ? [b.shape[1], b.shape[0]] : b.shape;
    const shape = [m as number, n as number];
    const bias = inputs[2];
    check(
      k === k2 && (!bias || sameShape(bias.shape, shape) || sameShape(bias.shape, [n as number])),
      "Gemm",
      inputs,
    );
    return [{ dtype: "float32", shape }];
  },
  Reshape: (inputs, { shape }) => {
    const x = single("Reshape", inputs);
    const fits = elementCount(shape) === elementCount(x.shape);
    check(fits && shape.every(isSize), "Reshape", inputs);
    return [{ dtype: x.dtype, shape }];
  },
  Transpose: (inputs, { perm }) => {
    const x = single("Transpose", inputs);
    check(perm.length === x.shape.length && areAxes(perm, x), "Transpose", inputs);
    return [{ dtype: x.dtype, shape: perm.map((axis) => x.shape[axis] as number) }];
  },
  Expand: (inputs, { shape }) => {
    const x = single("Expand", inputs);
    check(sameShape(broadcastShape(x.shape, shape) ?? [], shape), "Expand", inputs);
    return [{ dtype: x.dtype, shape }];
  },
  Concat: (inputs, { axis }) => {
    const [x] = inputs;
    if (!x) throw misfit("Concat", inputs);
    const isLikeFirst = ({ dtype, shape }: Value) =>
      dtype === x.dtype && sameShape(shape.toSpliced(axis, 1), x.shape.toSpliced(axis, 1));
    check(areAxes([axis], x) && inputs.every(isLikeFirst), "Concat", inputs);
    const total = inputs.reduce((sum, input) => sum + (input.shape[axis] as number), 0);
    return [{ dtype: x.dtype, shape: x.shape.map((size, i) => (i === axis ? total : size)) }];
  },
  Split: (inputs, { axis, sizes }) => {
    const x = single("Split", inputs);
    const fits = sizes.reduce((sum, size) => sum + size, 0) === x.shape[axis];
    check(fits && sizes.every(isSize), "Split", inputs);
    return sizes.map((part) => ({
      dtype: x.dtype,
      shape: x.shape.map((size, i) => (i === axis ? part : size)),
    }));
  },
  ReduceSum: reduceRule,
  ReduceMean: floatReduceRule,
  LayerNormalization: (inputs) => {
    const [x] = pair("LayerNormalization", inputs, 3);
    const row = x.shape.slice(-1);
    const fits = row.length > 0 && inputs.slice(1).every(({ shape }) => sameShape(shape, row));
    check(fits && inputs.every(isFloat), "LayerNormalization", inputs);
    const statistic = { dtype: "float32", shape: [...x.shape.slice(0, -1), 1] } as const;
    return [{ dtype: "float32", shape: x.shape }, statistic, statistic];
  },
  LogSumExp: (inputs) => {
    const x = single("LogSumExp", inputs);
    check(isFloat(x) && x.shape.length > 0, "LogSumExp", inputs);
    const { shape } = x;
    return [
      { dtype: "float32", shape: shape.slice(0, -1) },
      { dtype: "float32", shape },
    ];
  },
  RMSNormalization: (inputs) => {
    const [x, scale] = pair("RMSNormalization", inputs);
    check(sameShape(scale.shape, [x.shape.at(-1) as number]), "RMSNormalization", inputs);
    return [{ dtype: "float32", shape: x.shape }];
  },
  RotaryEmbedding: (inputs, { heads }) => {
    const [x, cos, sin, positions] = inputs;
    const [batch, sequence, width = 0] = x?.shape ?? [];
    const [rows = 0, halfSize] = cos?.shape ?? [];
    check(
      x?.shape.length === 3 &&
        width / heads / 2 === halfSize &&
        rows >= Number(sequence) &&
        sameShape(sin?.shape ?? [], [rows, halfSize]) &&
        positions?.dtype === "int64" &&
        sameShape(positions.shape, [batch as number, sequence as number]),
      "RotaryEmbedding",
      inputs,
    );
    return [{ dtype: "float32", shape: (x as Value).shape }];
  },
  Gather: (inputs) => {
    const [table, indices] = pair("Gather", inputs);
    check(indices.dtype === "int64" && table.shape.length > 0, "Gather", inputs);
    return [{ dtype: table.dtype, shape: [...indices.shape, ...table.shape.slice(1)] }];
  },
  GatherElements: (inputs, { axis }) => {
    const [x, indices] = pair("GatherElements", inputs);
    check(areIndices(indices, x, axis), "GatherElements", inputs);
    return [{ dtype: x.dtype, shape: indices.shape }];
  },
  ScatterElements: (inputs, { axis }) => {
    const [x, indices] = pair("ScatterElements", inputs, 3);
    const updates = inputs[2];
    const fits = updates?.dtype === x.dtype && sameShape(indices.shape, updates.shape);
    check(fits && areIndices(indices, x, axis), "ScatterElements", inputs);
    return [{ dtype: x.dtype, shape: x.shape }];
  },
  Cast: (inputs, { to }) => [{ dtype: to, shape: single("Cast", inputs).shape }],
  DequantizeLinear: (inputs, { blockSize }) => {
    const [x, scale] = pair("DequantizeLinear", inputs, 3);
    const [rows = 0, columns = 0] = x.shape;
    const isQuantised = (x.dtype === "int8" || x.dtype === "int4") && x.shape.length === 2;
    const isScaled = sameShape(scale.shape, [rows / blockSize, columns]);
    check(isQuantised && isScaled && inputs[2]?.dtype === "float32", "DequantizeLinear", inputs);
    return [{ dtype: "float32", shape: x.shape }];
  },
};

/** The common shape of two by ONNX multidirectional broadcasting, or undefined when there is none. */
function broadcastShape(a: readonly number[], b: readonly number[]): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const shape: number[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return undefined;
    shape.push(x === 1 ? y : x);
  }
  return shape;
}

function broadcastRule(inputs: readonly Value[]): ValueSpec[] {
  const [a, b] = pair("element-wise operator", inputs);
  const shape = broadcastShape(a.shape, b.shape);
  const areAlike = a.dtype === b.dtype && a.dtype !== "bool";
  if (!shape || !areAlike) throw misfit("element-wise operator", inputs);
  return [{ dtype: a.dtype, shape }];
}

function sameRule(inputs: readonly Value[]): ValueSpec[] {
  const x = single("element-wise operator", inputs);
  return [{ dtype: x.dtype, shape: x.shape }];
}

function floatRule(inputs: readonly Value[]): ValueSpec[] {
  check(inputs.every(isFloat), "element-wise operator", inputs);
  return sameRule(inputs);
}

function reduceRule(inputs: readonly Value[], { axes, keepDims }: Reduction): ValueSpec[] {
  const x = single("reduction", inputs);
  check(areAxes(axes, x), "reduction", inputs);
  const shape = keepDims
    ? x.shape.map((size, axis) => (axes.includes(axis) ? 1 : size))
    : x.shape.filter((_, axis) => !axes.includes(axis));
  return [{ dtype: x.dtype, shape }];
}

function floatReduceRule(inputs: readonly Value[], attributes: Reduction): ValueSpec[] {
  check(inputs.every(isFloat), "reduction", inputs);
  return reduceRule(inputs, attributes);
}

function single(op: string, inputs: readonly Value[]): Value {
  const [x] = inputs;
  if (!x || inputs.length > 1) throw misfit(op, inputs);
  return x;
}

/** The first two inputs of an operator that takes at most `most`. */
function pair(op: string, inputs: readonly Value[], most = 2): [Value, Value] {
  const [a, b] = inputs;
  if (!a || !b || inputs.length > most) throw misfit(op, inputs);
  return [a, b];
}

function isFloat({ dtype }: Value): boolean {
  return dtype === "float32";
}

function isSize(size: number): boolean {
  return size >= 0;
}

/** Whether these are axes of `x`, each at most once. */
function areAxes(axes: readonly number[], x: Value): boolean {
  return new Set(axes).size === axes.length && axes.every((axis) => axis in x.shape);
}

/** Whether these may index `x` along an axis: elsewhere they have no more places than it. */
function areIndices({ dtype, shape }: Value, x: Value, axis: number): boolean {
  const fits = shape.every((size, i) => i === axis || size <= (x.shape[i] ?? 0));
  return dtype === "int64" && shape.length === x.shape.length && axis in shape && fits;
}

function check(fits: boolean, op: string, inputs: readonly Value[]): void {
  if (!fits) throw misfit(op, inputs);
}

function misfit(op: string, inputs: readonly Value[]): Error {
  const list = inputs
    .map((value) => `${value.name} ${value.dtype}[${value.shape.join(", ")}]`)
    .join("; ");
  return runtimeErrors.error("GRAPH_INVALID", `${op} cannot take these inputs: ${list || "none"}`);
}
