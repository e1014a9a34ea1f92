// One kernel for each operator, written for reading: what the operator means, in float64.
import type { Value } from "./ir.ts";
import type { OpAttributes, OpName } from "./ops.ts";
import { at, type Dense, operand } from "./reference-dense.ts";
import {
  concat,
  expand,
  gather,
  gatherElements,
  scatterElements,
  split,
  transpose,
} from "./reference-moves.ts";
import {
  combine,
  gemm,
  layerNormalization,
  logSumExp,
  matMul,
  reduceMean,
  reduceSum,
  rmsNormalization,
  rotaryEmbedding,
  softmax,
} from "./reference-sums.ts";

/** Elements of each output from the inputs; `outputs` tell the shapes to fill. */
export type Kernel<K extends OpName> = (
  inputs: readonly Dense[],
  attributes: OpAttributes[K],
  outputs: readonly Value[],
) => readonly Float64Array[];

/** The interpreter's operators; an operator without a kernel does not compile. */
export const kernels: { readonly [K in OpName]: Kernel<K> } = {
  Add: combine((a, b) => a + b),
  Sub: combine((a, b) => a - b),
  Mul: combine((a, b) => a * b),
  Div: (inputs, attributes, outputs) => {
    const whole = outputs[0]?.dtype === "int64";
    const divide = combine((a, b) => (whole ? Math.trunc(a / b) : a / b));
    return divide(inputs, attributes, outputs);
  },
  Neg: each((x) => -x),
  Exp: each(Math.exp),
  Log: each(Math.log),
  Sqrt: each(Math.sqrt),
  Tanh: each(Math.tanh),
  Sigmoid: each((x) => 1 / (1 + Math.exp(-x))),
  Gelu: each((x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))),
  MatMul: matMul,
  Gemm: gemm,
  Reshape: each((x) => x),
  Transpose: transpose,
  Expand: expand,
  Concat: concat,
  Split: split,
  ReduceSum: reduceSum,
  ReduceMean: reduceMean,
  Softmax: softmax,
  LogSumExp: logSumExp,
  LayerNormalization: layerNormalization,
  RMSNormalization: rmsNormalization,
  RotaryEmbedding: rotaryEmbedding,
  Gather: gather,
  GatherElements: gatherElements,
  ScatterElements: scatterElements,
  Cast: (inputs, { to }) => {
    const converted = {
      float32: (x: number) => x,
      int64: Math.trunc,
      bool: (x: number) => Number(x !== 0),
    };
    return [operand(inputs, 0).data.map(converted[to])];
  },
  DequantizeLinear: (inputs, { blockSize }) => {
    const [x, scale] = [operand(inputs, 0), operand(inputs, 1)];
    const columns = at(x.shape, 1);
    const scaleOf = (i: number) =>
      at(scale.data, Math.floor(i / columns / blockSize) * columns + (i % columns));
    return [x.data.map((value, i) => value * scaleOf(i))];
  },
};

function each(f: (x: number) => number): (inputs: readonly Dense[]) => readonly Float64Array[] {
  return (inputs) => [operand(inputs, 0).data.map((x) => f(x))];
}
