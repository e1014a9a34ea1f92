// For each operator, what its gradient is tried on: broadcasting, both transposition flags, repeated indices,
// outputs that nothing flows into. A new operator without a case does not compile.
import type { OpAttributes, OpName } from "../../runtime/graph/ops.ts";
import { randomStream } from "../../runtime/random.ts";
import { type Float32Tensor, float32, int64, type Tensor } from "../../runtime/tensor.ts";

/** One application of an operator; every float32 input that has a gradient is differentiated. */
export interface VjpCase<K extends OpName> {
  readonly title: string;
  readonly inputs: readonly Tensor[];
  readonly attributes: OpAttributes[K];
  /** Inputs that are float32 and have no gradient. */
  readonly frozen?: readonly number[];
  /** Outputs that gradients flow into; the first when left out. */
  readonly seeded?: readonly number[];
}

type Cases<K extends OpName> = readonly [VjpCase<K>, ...VjpCase<K>[]];

const none = {};
let drawn = 0;

/** Numbers between -1 and 1, `from` to `to` when given; another draw at each call. */
function numbers(shape: readonly number[], from = -1, to = 1): Float32Tensor {
  drawn += 1;
  const random = randomStream("vjp", drawn);
  const tensor = float32(shape);
  return float32(
    shape,
    tensor.data.map(() => from + (to - from) * random.next()),
  );
}

/** At least a half away from zero, on both sides. */
function divisors(shape: readonly number[]): Float32Tensor {
  const { data } = numbers(shape);
  return float32(
    shape,
    data.map((value) => value + 0.5 * Math.sign(value)),
  );
}

/** The ways two operands broadcast against each other. */
function broadcasts(second: (shape: readonly number[]) => Float32Tensor) {
  const pair = (title: string, a: readonly number[], b: readonly number[]) => ({
    title,
    inputs: [numbers(a), second(b)],
    attributes: none,
  });
  return [
    pair("equal shapes", [2, 3], [2, 3]),
    pair("a row over a matrix", [2, 3], [3]),
    pair("a column and a row", [2, 1], [1, 3]),
    pair("a scalar on the left", [], [2, 2]),
    pair("new leading axes", [3], [2, 2, 3]),
    pair("axes of size one on both sides", [2, 1, 3], [1, 4, 1]),
  ] as const;
}

function unary(x: Float32Tensor, title = "a matrix") {
  return [{ title, inputs: [x], attributes: none }] as const;
}

function reductions() {
  const reduce = (title: string, axes: readonly number[], keepDims: boolean) => ({
    title,
    inputs: [numbers([2, 3, 4])],
    attributes: { axes, keepDims },
  });
  return [
    reduce("the last axis, dropped", [2], false),
    reduce("the middle axis, kept", [1], true),
    reduce("two axes that are not neighbours", [0, 2], false),
    reduce("every axis", [0, 1, 2], false),
  ] as const;
}

function gemm(transA: boolean, transB: boolean, alpha: number, bias?: readonly number[]) {
  const a = numbers(transA ? [4, 3] : [3, 4]);
  const b = numbers(transB ? [2, 4] : [4, 2]);
  return {
    title: `transA ${transA}, transB ${transB}, bias [${bias ?? "none"}]`,
    inputs: bias ? [a, b, numbers(bias)] : [a, b],
    attributes: { alpha, transA, transB },
  };
}

/** At least one case for each operator. */
export const vjpCases: { readonly [K in OpName]: Cases<K> } = {
  Add: broadcasts(numbers),
  Sub: broadcasts(numbers),
  Mul: broadcasts(numbers),
  Div: broadcasts(divisors),
  Neg: unary(numbers([2, 3])),
  Exp: unary(numbers([2, 3])),
  Log: unary(numbers([2, 3], 0.5, 2)),
  Sqrt: unary(numbers([2, 3], 0.5, 2)),
  Tanh: unary(numbers([2, 3], -2, 2)),
  Sigmoid: unary(numbers([2, 3], -3, 3)),
  // Both bends, both tails.
  Gelu: unary(numbers([4, 5], -4, 4)),
  MatMul: [
    { title: "matrices", inputs: [numbers([2, 3]), numbers([3, 4])], attributes: none },
    {
      title: "batches of heads",
      inputs: [numbers([2, 2, 3, 4]), numbers([2, 2, 4, 1])],
      attributes: none,
    },
  ],
  Gemm: [
    gemm(false, false, 1),
    gemm(false, true, 1, [2]),
    gemm(true, false, 0.5, [3, 2]),
    gemm(true, true, -2, [2]),
    gemm(true, true, 3),
  ],
  Reshape: [{ title: "[2, 6]", inputs: [numbers([3, 4])], attributes: { shape: [2, 6] } }],
  Transpose: [
    { title: "a matrix", inputs: [numbers([2, 3])], attributes: { perm: [1, 0] } },
    // Not its own inverse.
    { title: "a cycle of axes", inputs: [numbers([2, 3, 4])], attributes: { perm: [2, 0, 1] } },
  ],
  Expand: [
    { title: "a column", inputs: [numbers([2, 1])], attributes: { shape: [2, 3] } },
    { title: "new axes", inputs: [numbers([3])], attributes: { shape: [2, 2, 3] } },
    { title: "a scalar", inputs: [numbers([])], attributes: { shape: [4] } },
  ],
  Concat: [
    {
      title: "three of different sizes",
      inputs: [numbers([2, 1]), numbers([2, 3]), numbers([2, 2])],
      attributes: { axis: 1 },
    },
  ],
  Split: [
    {
      title: "every part used",
      inputs: [numbers([2, 6])],
      attributes: { axis: 1, sizes: [1, 2, 3] },
      seeded: [0, 1, 2],
    },
    {
      title: "only the last part used",
      inputs: [numbers([6, 2])],
      attributes: { axis: 0, sizes: [1, 2, 3] },
      seeded: [2],
    },
    {
      title: "the middle part unused",
      inputs: [numbers([6])],
      attributes: { axis: 0, sizes: [2, 2, 2] },
      seeded: [0, 2],
    },
  ],
  ReduceSum: reductions(),
  ReduceMean: reductions(),
  ReduceLogSumExp: reductions(),
  Softmax: [
    { title: "scores of two heads", inputs: [numbers([2, 3, 4], -2, 2)], attributes: none },
    // As a masked position makes it.
    {
      title: "one entry far below",
      inputs: [float32([1, 3], [0.3, -1e9, 0.9])],
      attributes: none,
    },
  ],
  LayerNormalization: [
    {
      title: "rows with scale and bias",
      inputs: [numbers([3, 4]), numbers([4]), numbers([4])],
      attributes: { epsilon: 1e-5 },
    },
    {
      title: "three axes and a large epsilon",
      inputs: [numbers([2, 2, 3]), numbers([3]), numbers([3])],
      attributes: { epsilon: 0.1 },
    },
  ],
  RMSNormalization: [
    {
      title: "rows with a scale",
      inputs: [numbers([3, 4]), numbers([4])],
      attributes: { epsilon: 1e-5 },
    },
    {
      title: "three axes and a large epsilon",
      inputs: [numbers([2, 2, 3]), numbers([3])],
      attributes: { epsilon: 0.1 },
    },
  ],
  RotaryEmbedding: [
    {
      title: "two heads, positions out of order",
      // Any numbers will do for the tables: the operator is linear in x.
      inputs: [
        numbers([2, 3, 8]),
        numbers([4, 2]),
        numbers([4, 2]),
        int64([2, 3], [0, 3, 1, 2, 2, 0]),
      ],
      attributes: { heads: 2 },
      frozen: [1, 2],
    },
  ],
  Gather: [
    {
      title: "rows read several times and rows never read",
      inputs: [numbers([4, 3]), int64([2, 3], [1, 1, 3, 0, 1, 3])],
      attributes: none,
    },
    {
      title: "a table of matrices",
      inputs: [numbers([3, 2, 2]), int64([2], [2, 2])],
      attributes: none,
    },
  ],
  GatherElements: [
    {
      title: "one class a row",
      inputs: [numbers([3, 4]), int64([3, 1], [2, 0, 2])],
      attributes: { axis: 1 },
    },
    {
      title: "repeated along the first axis",
      inputs: [numbers([3, 2]), int64([4, 2], [0, 1, 0, 1, 2, 2, 0, 1])],
      attributes: { axis: 0 },
    },
  ],
  ScatterElements: [
    {
      title: "repeated indices accumulate",
      inputs: [numbers([3, 2]), int64([4, 2], [0, 1, 0, 1, 2, 2, 0, 1]), numbers([4, 2])],
      attributes: { axis: 0 },
    },
  ],
  Cast: [{ title: "to its own type", inputs: [numbers([2])], attributes: { to: "float32" } }],
};
