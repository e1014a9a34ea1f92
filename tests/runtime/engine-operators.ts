// Every operator on a few numbers that can be checked by hand or have a closed form. Not one of them
// comes from an engine of ours.
import type { OpAttributes, OpName } from "../../runtime/graph/ops.ts";
import { float32, int8, int64, type Tensor } from "../../runtime/tensor.ts";

/** One application of an operator: what goes in and, for each output, the elements that come out. */
export interface OperatorCase<K extends OpName> {
  readonly inputs: readonly Tensor[];
  readonly attributes: OpAttributes[K];
  readonly expected: readonly (readonly number[])[];
}

const none = {};
const { LN2, LN10 } = Math;
const ln3 = Math.log(3);
const square = float32([2, 2], [1, 2, 3, 4]);
const block = float32([2, 3], [1, 2, 3, 4, 5, 6]);
const column = float32([2, 1], [10, 20]);

/** At least one case for each operator: a missing one does not compile. */
export const operatorCases: {
  readonly [K in OpName]: readonly [OperatorCase<K>, ...OperatorCase<K>[]];
} = {
  Add: [
    // Both operands broadcast: [3] + [2, 1] -> [2, 3].
    {
      inputs: [float32([3], [1, 2, 3]), column],
      attributes: none,
      expected: [[11, 12, 13, 21, 22, 23]],
    },
    {
      inputs: [int64([2], [2 ** 40, -1]), int64([], [1])],
      attributes: none,
      expected: [[2 ** 40 + 1, 0]],
    },
  ],
  Sub: [unary([block, column], [-9, -8, -7, -16, -15, -14])],
  Mul: [unary([block, column], [10, 20, 30, 80, 100, 120])],
  Div: [
    unary([block, column], [0.1, 0.2, 0.3, 0.2, 0.25, 0.3]),
    // int64 division drops the fraction, towards zero.
    unary([int64([2], [7, -7]), int64([], [2])], [3, -3]),
  ],
  Neg: [unary([float32([2], [1, -2])], [-1, 2])],
  Exp: [unary([float32([3], [0, LN2, LN10])], [1, 2, 10])],
  Log: [unary([float32([3], [1, 2, 10])], [0, LN2, LN10])],
  Sqrt: [unary([float32([3], [0, 4, 2.25])], [0, 2, 1.5])],
  Tanh: [unary([float32([3], [0, LN2, -ln3])], [0, 3 / 5, -4 / 5])],
  Sigmoid: [unary([float32([3], [0, LN2, -ln3])], [1 / 2, 2 / 3, 1 / 4])],
  // (1 + tanh u) / 2 = 1 / (1 + exp(-2u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3).
  Gelu: [unary([float32([4], [0, 1, -1, 2])], [0, 0.8411919906, -0.1588080094, 1.9545976942])],
  MatMul: [
    unary([square, square], [7, 10, 15, 22]),
    // [2, 1, 2] x [2, 2, 1]: two products of a row and a column.
    unary([float32([2, 1, 2], [1, 2, 3, 4]), float32([2, 2, 1], [5, 6, 7, 8])], [17, 53]),
  ],
  Gemm: [
    gemm([square, block], 1, false, false, [9, 12, 15, 19, 26, 33]),
    // Transposed left: [[1, 3], [2, 4]] x block; bias over columns.
    gemm([square, block, float32([3], [1, 2, 3])], 2, true, false, [27, 36, 45, 37, 50, 63]),
    // block x block^T = [[14, 32], [32, 77]]; bias of full shape.
    gemm([block, block, square], 0.5, false, true, [8, 18, 19, 42.5]),
    // block^T x square^T.
    gemm([block, square], 1, true, true, [9, 19, 12, 26, 15, 33]),
  ],
  Reshape: [
    { inputs: [block], attributes: { shape: [3, 1, 2] }, expected: [[1, 2, 3, 4, 5, 6]] },
    { inputs: [float32([1], [5])], attributes: { shape: [] }, expected: [[5]] },
    { inputs: [float32([2, 0], [])], attributes: { shape: [0, 4] }, expected: [[]] },
  ],
  Transpose: [
    { inputs: [block], attributes: { perm: [1, 0] }, expected: [[1, 4, 2, 5, 3, 6]] },
    {
      inputs: [float32([1, 2, 3], [1, 2, 3, 4, 5, 6])],
      attributes: { perm: [2, 0, 1] },
      expected: [[1, 4, 2, 5, 3, 6]],
    },
  ],
  Expand: [
    {
      inputs: [column],
      attributes: { shape: [2, 2, 2] },
      expected: [[10, 10, 20, 20, 10, 10, 20, 20]],
    },
  ],
  Concat: [
    { inputs: [block, column], attributes: { axis: 1 }, expected: [[1, 2, 3, 10, 4, 5, 6, 20]] },
    {
      inputs: [int64([1], [7]), int64([2], [8, 9])],
      attributes: { axis: 0 },
      expected: [[7, 8, 9]],
    },
  ],
  Split: [
    {
      inputs: [block],
      attributes: { axis: 1, sizes: [1, 2] },
      expected: [
        [1, 4],
        [2, 3, 5, 6],
      ],
    },
  ],
  ReduceSum: [
    reduce([block], [0], false, [5, 7, 9]),
    reduce([block], [0, 1], true, [21]),
    // No axes: nothing is reduced.
    reduce([block], [], true, [1, 2, 3, 4, 5, 6]),
  ],
  ReduceMean: [reduce([block], [1], true, [2, 5]), reduce([block], [], false, [1, 2, 3, 4, 5, 6])],
  LogSumExp: [
    // log(1 + 2 + 3) and log(1 + 1 + 1), and the shares of each.
    {
      inputs: [float32([2, 3], [0, LN2, ln3, 0, 0, 0])],
      attributes: none,
      expected: [
        [Math.log(6), ln3],
        [1 / 6, 1 / 3, 1 / 2, 1 / 3, 1 / 3, 1 / 3],
      ],
    },
    // exp(1000) has no float32: the maximum must be taken out first.
    {
      inputs: [float32([2], [1000, 1000])],
      attributes: none,
      expected: [[1000 + LN2], [1 / 2, 1 / 2]],
    },
  ],
  Softmax: [
    unary([float32([2, 2], [0, ln3, 1000, 1000])], [1 / 4, 3 / 4, 1 / 2, 1 / 2]),
    // What a mask removes gets no share at all.
    unary([float32([3], [0, 0, -1e9])], [1 / 2, 1 / 2, 0]),
  ],
  LayerNormalization: [
    {
      // Rows (1, 3) and (5, 5): means 2 and 5, variances 1 and 0.
      inputs: [float32([2, 2], [1, 3, 5, 5]), float32([2], [2, 4]), float32([2], [10, 20])],
      attributes: { epsilon: 3 },
      expected: [
        [9, 22, 10, 20],
        [2, 5],
        [1 / 2, 1 / Math.sqrt(3)],
      ],
    },
  ],
  RMSNormalization: [
    {
      // Mean square (1 + 49) / 2 = 25.
      inputs: [float32([1, 2], [1, 7]), float32([2], [10, 20])],
      attributes: { epsilon: 0 },
      expected: [[2, 28]],
    },
    {
      // Rows (3, 3) and (5, -5): mean squares 9 and 25, plus 7 and 7: 16 and 32.
      inputs: [float32([2, 1, 2], [3, 3, 5, -5]), float32([2], [4, 8])],
      attributes: { epsilon: 7 },
      expected: [[3, 6, 5 / Math.SQRT2, -10 / Math.SQRT2]],
    },
  ],
  RotaryEmbedding: [
    {
      // One head of 4 at positions 0 and 2: no turn; then (x0, x2) by a right angle and (x1, x3) by (3, 4, 5).
      inputs: [
        float32([1, 2, 4], [1, 2, 3, 4, 1, 2, 3, 4]),
        float32([3, 2], [1, 1, 9, 9, 0, 0.6]),
        float32([3, 2], [0, 0, 9, 9, 1, 0.8]),
        int64([1, 2], [0, 2]),
      ],
      attributes: { heads: 1 },
      expected: [[1, 2, 3, 4, -3, 1.2 - 3.2, 1, 1.6 + 2.4]],
    },
    {
      // Two heads of 2, the same angle for both; rows of a batch with positions of their own.
      inputs: [
        float32([2, 1, 4], [1, 2, 3, 4, 1, 2, 3, 4]),
        float32([2, 1], [1, 0]),
        float32([2, 1], [0, 1]),
        int64([2, 1], [1, 0]),
      ],
      attributes: { heads: 2 },
      expected: [[-2, 1, -4, 3, 1, 2, 3, 4]],
    },
  ],
  Gather: [
    {
      inputs: [block, int64([1, 3], [1, 0, -1])],
      attributes: none,
      expected: [[4, 5, 6, 1, 2, 3, 4, 5, 6]],
    },
  ],
  GatherElements: [
    {
      inputs: [block, int64([2, 2], [2, 0, -1, 1])],
      attributes: { axis: 1 },
      expected: [[3, 1, 6, 5]],
    },
    {
      inputs: [block, int64([1, 3], [1, 0, 1])],
      attributes: { axis: 0 },
      expected: [[4, 2, 6]],
    },
  ],
  ScatterElements: [
    {
      // Repeated places add up, on top of what is there.
      inputs: [
        square,
        int64([3, 2], [0, 0, 0, 1, 1, -1]),
        float32([3, 2], [10, 20, 30, 40, 50, 60]),
      ],
      attributes: { axis: 0 },
      expected: [[41, 22, 53, 104]],
    },
    {
      inputs: [square, int64([2, 1], [1, 0]), float32([2, 1], [5, 7])],
      attributes: { axis: 1 },
      expected: [[1, 7, 10, 4]],
    },
  ],
  DequantizeLinear: [
    // Two blocks of one row; the third input is waited for and not read.
    {
      inputs: [int8([2, 2], [1, -2, 127, -128]), float32([2, 2], [0.5, 2, 1, 0.25]), column],
      attributes: { blockSize: 1 },
      expected: [[0.5, -4, 127, -32]],
    },
    // One block of two rows.
    {
      inputs: [int8([2, 2], [1, -2, 3, 4]), float32([1, 2], [0.5, 2]), float32([], [7])],
      attributes: { blockSize: 2 },
      expected: [[0.5, -4, 1.5, 8]],
    },
  ],
  Cast: [
    { inputs: [int64([2], [3, -4])], attributes: { to: "float32" }, expected: [[3, -4]] },
    { inputs: [float32([3], [2.9, -2.9, 0])], attributes: { to: "int64" }, expected: [[2, -2, 0]] },
  ],
};

function unary(inputs: readonly Tensor[], expected: readonly number[]) {
  return { inputs, attributes: none, expected: [expected] };
}

function gemm(
  inputs: readonly Tensor[],
  alpha: number,
  transA: boolean,
  transB: boolean,
  expected: readonly number[],
): OperatorCase<"Gemm"> {
  return { inputs, attributes: { alpha, transA, transB }, expected: [expected] };
}

function reduce(
  inputs: readonly Tensor[],
  axes: readonly number[],
  keepDims: boolean,
  expected: readonly number[],
) {
  return { inputs, attributes: { axes, keepDims }, expected: [expected] };
}
