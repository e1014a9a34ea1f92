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
  readonly ReduceLogSumExp: Reduction;
  /** Along the last axis. */
  readonly Softmax: None;
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
  readonly Cast: { readonly to: ValueType };
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
  Exp: sameRule,
  Log: sameRule,
  Sqrt: sameRule,
  Tanh: sameRule,
  Sigmoid: sameRule,
  Gelu: sameRule,
  Softmax: sameRule,
  MatMul: (inputs) => {
    const [a, b] = pair("MatMul", inputs);
    const [m, k] = a.shape.slice(-2) as [number, number];
    const [k2, n] = b.shape.slice(-2) as [number, number];
    const fits = k === k2 && sameShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
    check(fits && a.shape.length >= 2, "MatMul", inputs);
    return [{ dtype: "float32", shape: [...a.shape.slice(0, -2), m, n] }];
  },
  Gemm: (inputs, { transA, transB }) => {
    const [a, b] = pair("Gemm", inputs);
    check(a.shape.length === 2 && b.shape.length === 2, "Gemm", inputs);
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
    const x = first("Reshape", inputs);
    check(elementCount(shape) === elementCount(x.shape), "Reshape", inputs);
    return [{ dtype: x.dtype, shape }];
  },
  Transpose: (inputs, { perm }) => {
    const x = first("Transpose", inputs);
    check(perm.length === x.shape.length, "Transpose", inputs);
    return [{ dtype: x.dtype, shape: perm.map((axis) => x.shape[axis] as number) }];
  },
  Expand: (inputs, { shape }) => {
    const x = first("Expand", inputs);
    check(sameShape(broadcastShape(x.shape, shape) ?? [], shape), "Expand", inputs);
    return [{ dtype: x.dtype, shape }];
  },
  Concat: (inputs, { axis }) => {
    const x = first("Concat", inputs);
    const total = inputs.reduce((sum, input) => sum + (input.shape[axis] as number), 0);
    return [{ dtype: x.dtype, shape: x.shape.map((size, i) => (i === axis ? total : size)) }];
  },
  Split: (inputs, { axis, sizes }) => {
    const x = first("Split", inputs);
    check(sizes.reduce((sum, size) => sum + size, 0) === x.shape[axis], "Split", inputs);
    return sizes.map((part) => ({
      dtype: x.dtype,
      shape: x.shape.map((size, i) => (i === axis ? part : size)),
    }));
  },
  ReduceSum: reduceRule,
  ReduceMean: reduceRule,
  ReduceLogSumExp: reduceRule,
  LayerNormalization: (inputs) => {
    const x = first("LayerNormalization", inputs);
    const width = x.shape.at(-1) as number;
    check(
      inputs.slice(1).every((input) => sameShape(input.shape, [width])),
      "LayerNormalization",
      inputs,
    );
    const statistic = { dtype: "float32", shape: [...x.shape.slice(0, -1), 1] } as const;
    return [{ dtype: "float32", shape: x.shape }, statistic, statistic];
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
    return [{ dtype: "float32", shape: first("RotaryEmbedding", inputs).shape }];
  },
  Gather: (inputs) => {
    const [table, indices] = pair("Gather", inputs);
    check(indices.dtype === "int64", "Gather", inputs);
    return [{ dtype: table.dtype, shape: [...indices.shape, ...table.shape.slice(1)] }];
  },
  GatherElements: (inputs) => {
    const [x, indices] = pair("GatherElements", inputs);
    check(
      indices.dtype === "int64" && indices.shape.length === x.shape.length,
      "GatherElements",
      inputs,
    );
    return [{ dtype: x.dtype, shape: indices.shape }];
  },
  ScatterElements: (inputs) => {
    const [x, indices] = pair("ScatterElements", inputs);
    const updates = inputs[2];
    check(
      indices.dtype === "int64" && !!updates && sameShape(indices.shape, updates.shape),
      "ScatterElements",
      inputs,
    );
    return [{ dtype: x.dtype, shape: x.shape }];
  },
  Cast: (inputs, { to }) => [{ dtype: to, shape: first("Cast", inputs).shape }],
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
  if (!shape || a.dtype !== b.dtype) throw misfit("element-wise operator", inputs);
  return [{ dtype: a.dtype, shape }];
}

function sameRule(inputs: readonly Value[]): ValueSpec[] {
  const x = first("element-wise operator", inputs);
  return [{ dtype: x.dtype, shape: x.shape }];
}

function reduceRule(inputs: readonly Value[], { axes, keepDims }: Reduction): ValueSpec[] {
  const x = first("reduction", inputs);
  const shape = keepDims
    ? x.shape.map((size, axis) => (axes.includes(axis) ? 1 : size))
    : x.shape.filter((_, axis) => !axes.includes(axis));
  return [{ dtype: x.dtype, shape }];
}

function first(op: string, inputs: readonly Value[]): Value {
  const [x] = inputs;
  if (!x) throw misfit(op, inputs);
  return x;
}

function pair(op: string, inputs: readonly Value[]): [Value, Value] {
  const [a, b] = inputs;
  if (!a || !b) throw misfit(op, inputs);
  return [a, b];
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
