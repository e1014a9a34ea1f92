// Random small graphs for comparing engines and gradients: operators in a row, each fed by the one before
// and some by earlier ones too.
import * as fc from "fast-check";
import { type GraphBuilder, graphBuilder } from "../../runtime/graph/builder.ts";
import type { Value } from "../../runtime/graph/ir.ts";
import type { OpName } from "../../runtime/graph/ops.ts";
import { type RandomStream, randomStream } from "../../runtime/random.ts";
import {
  elementCount,
  type Float32Tensor,
  float32,
  int8,
  int64,
  sameShape,
} from "../../runtime/tensor.ts";

/** What a random graph is made from; equal plans make equal graphs. */
export interface GraphPlan {
  /** Of the input `x`. */
  readonly shape: readonly number[];
  readonly steps: readonly OpName[];
  /** Of every other choice and number. */
  readonly seed: number;
}

/** A graph under construction: the input `x`, the value after each step, and numbers to feed. */
export interface RandomGraph {
  readonly builder: GraphBuilder;
  readonly x: Value;
  readonly values: readonly Value[];
  readonly feed: Float32Tensor;
}

/** Up to six operators in a row over shapes of one to three axes of one to four elements. */
export function graphPlans(): fc.Arbitrary<GraphPlan> {
  return fc.record({
    shape: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 3 }),
    steps: fc.array(fc.constantFrom(...(Object.keys(steps) as OpName[])), {
      minLength: 1,
      maxLength: 6,
    }),
    seed: fc.nat(),
  });
}

/** Carries a plan out. The value after step `cut`, if any, is replaced by another input, `h`, for what follows. */
export function randomGraph(plan: GraphPlan, cut?: number): RandomGraph {
  const random = randomStream("graph", plan.seed);
  const builder = graphBuilder();
  const x = builder.input("x", "float32", plan.shape);
  const values: Value[] = [];
  for (const [i, name] of plan.steps.entries()) {
    const earlier = [x, ...values];
    const value = steps[name]({ builder, x: earlier.at(-1) as Value, earlier, random });
    values.push(i === cut ? builder.input("h", "float32", value.shape) : value);
  }
  return { builder, x, values, feed: numbers(plan.shape, random) };
}

interface Site {
  readonly builder: GraphBuilder;
  readonly x: Value;
  /** `x` and what came before it. */
  readonly earlier: readonly Value[];
  readonly random: RandomStream;
}
type Step = (site: Site) => Value;

/** How each operator goes on from a float32 value of any shape; the result is one again. */
const steps: { readonly [K in OpName]: Step } = {
  Add: (site) => binary("Add", site),
  Sub: (site) => binary("Sub", site),
  Mul: (site) => binary("Mul", site),
  // By at least a half, so that errors do not grow without bound.
  Div: ({ builder, x, random }) => {
    const divisor = numbers(x.shape.slice(-1), random);
    const data = divisor.data.map((d) => Math.sign(d) * (Math.abs(d) + 0.5));
    return builder.op("Div", [x, builder.constant(float32(divisor.shape, data))], {});
  },
  Neg: (site) => unary("Neg", site),
  Exp: (site) => unary("Exp", { ...site, x: unary("Tanh", site) }),
  Log: (site) => unary("Log", { ...site, x: atLeastOne(site) }),
  Sqrt: (site) => unary("Sqrt", { ...site, x: atLeastOne(site) }),
  Tanh: (site) => unary("Tanh", site),
  Sigmoid: (site) => unary("Sigmoid", site),
  Gelu: (site) => unary("Gelu", site),
  MatMul: ({ builder, x: flat, random }) => {
    const x = atLeastRank2(builder, flat);
    const shape = [...x.shape.slice(0, -2), x.shape.at(-1) as number, 1 + random.below(4)];
    return builder.op("MatMul", [x, builder.constant(numbers(shape, random))], {});
  },
  Gemm: ({ builder, x: any, random }) => {
    const x = atRank2(builder, any);
    const [transA, transB] = [random.below(2) === 1, random.below(2) === 1];
    const k = x.shape[transA ? 0 : 1] as number;
    const n = 1 + random.below(4);
    const b = builder.constant(numbers(transB ? [n, k] : [k, n], random));
    const bias = random.below(2) === 1 ? [builder.constant(numbers([n], random))] : [];
    return builder.op("Gemm", [x, b, ...bias], { alpha: 0.5, transA, transB });
  },
  Reshape: ({ builder, x }) => builder.op("Reshape", [x], { shape: [elementCount(x.shape), 1] }),
  Transpose: ({ builder, x, random }) => {
    const perm = random.shuffle(x.shape.map((_, axis) => axis));
    return builder.op("Transpose", [x], { perm });
  },
  Expand: ({ builder, x }) => builder.op("Expand", [x], { shape: [2, ...x.shape] }),
  Concat: ({ builder, x, random }) =>
    builder.op("Concat", [x, x], { axis: random.below(x.shape.length) }),
  Split: ({ builder, x, random }) => {
    const axis = random.below(x.shape.length);
    const doubled = builder.op("Concat", [x, x, x], { axis });
    const size = x.shape[axis] as number;
    const parts = builder.apply("Split", [doubled], { axis, sizes: [size, 2 * size] });
    return parts[random.below(2)] as Value;
  },
  ReduceSum: (site) => reduce("ReduceSum", site),
  ReduceMean: (site) => reduce("ReduceMean", site),
  LogSumExp: ({ builder, x }) => {
    const [sum] = builder.apply("LogSumExp", [x], {}) as [Value, Value];
    return builder.op("Add", [x, builder.op("Reshape", [sum], { shape: [...sum.shape, 1] })], {});
  },
  Softmax: (site) => unary("Softmax", site),
  LayerNormalization: ({ builder, x, random }) => {
    const width = x.shape.slice(-1);
    const parts = [numbers(width, random), numbers(width, random)].map((tensor) =>
      builder.constant(tensor),
    );
    return builder.op("LayerNormalization", [x, ...parts], { epsilon: 1 });
  },
  RMSNormalization: ({ builder, x, random }) => {
    const scale = builder.constant(numbers(x.shape.slice(-1), random));
    return builder.op("RMSNormalization", [x, scale], { epsilon: 1 });
  },
  // Doubled along the last axis, so that there are two halves.
  RotaryEmbedding: ({ builder, x: any, random }) => {
    const x = atRank2(builder, any);
    const [rows, width] = x.shape as [number, number];
    const halves = builder.op("Concat", [x, x], { axis: 1 });
    const whole = builder.op("Reshape", [halves], { shape: [1, rows, 2 * width] });
    const tables = [numbers([rows, width], random), numbers([rows, width], random)];
    const places = indices([1, rows], rows, random);
    const inputs = [whole, ...tables.map((table) => builder.constant(table))];
    return builder.op("RotaryEmbedding", [...inputs, builder.constant(places)], { heads: 1 });
  },
  Gather: ({ builder, x, random }) => {
    const rows = indices([3], x.shape[0] as number, random);
    const gathered = builder.op("Gather", [x, builder.constant(rows)], {});
    return gathered;
  },
  GatherElements: ({ builder, x, random }) => {
    const axis = random.below(x.shape.length);
    const places = indices(x.shape, x.shape[axis] as number, random);
    return builder.op("GatherElements", [x, builder.constant(places)], { axis });
  },
  ScatterElements: ({ builder, x, random }) => {
    const axis = random.below(x.shape.length);
    const places = indices(x.shape, x.shape[axis] as number, random);
    const updates = builder.constant(numbers(x.shape, random));
    return builder.op("ScatterElements", [x, builder.constant(places), updates], { axis });
  },
  // A weight that waits for x, then adds to it.
  DequantizeLinear: ({ builder, x, random }) => {
    const width = x.shape.at(-1) as number;
    const data = Int8Array.from({ length: 2 * width }, () => random.below(256) - 128);
    const weight = builder.initializer({
      kind: "inline",
      value: { name: `weight:${random.below(2 ** 31)}`, dtype: "int8", shape: [2, width] },
      tensor: int8([2, width], data),
    });
    const scale = builder.constant(numbers([1, width], random));
    const rows = builder.op("DequantizeLinear", [weight, scale, x], { blockSize: 2 });
    const [row] = builder.apply("Split", [rows], { axis: 0, sizes: [1, 1] }) as [Value, Value];
    return builder.op("Add", [x, builder.op("Reshape", [row], { shape: [width] })], {});
  },
  // To whole numbers of x itself would differ where rounding crosses one.
  Cast: ({ builder, x, random }) => {
    const places = builder.constant(indices(x.shape, 5, random));
    return builder.op("Add", [x, builder.op("Cast", [places], { to: "float32" })], {});
  },
};

function unary(
  op: "Neg" | "Exp" | "Log" | "Sqrt" | "Tanh" | "Sigmoid" | "Gelu" | "Softmax",
  site: Site,
): Value {
  return site.builder.op(op, [site.x], {});
}

function binary(op: "Add" | "Sub" | "Mul", { builder, x, earlier, random }: Site): Value {
  const alike = earlier.filter((value) => sameShape(value.shape, x.shape));
  // x itself or a value before it, as residual connections read it.
  if (random.below(2) === 1) return builder.op(op, [x, random.shuffle(alike)[0] as Value], {});
  // Whole shape, last axis only, or a scalar.
  const shape = x.shape.slice(random.below(x.shape.length + 1));
  return builder.op(op, [x, builder.constant(numbers(shape, random))], {});
}

function reduce(op: "ReduceSum" | "ReduceMean", site: Site): Value {
  const { builder, x, random } = site;
  const axes = x.shape.flatMap((_, axis) => (random.below(2) === 1 ? [axis] : []));
  // A scalar would leave later steps no axis to work on.
  const keepDims = axes.length === x.shape.length || random.below(2) === 1;
  return builder.op(op, [x], { axes, keepDims });
}

function atLeastOne({ builder, x }: Site): Value {
  return builder.op("Add", [builder.op("Mul", [x, x], {}), builder.scalar(1)], {});
}

function atLeastRank2(builder: GraphBuilder, x: Value): Value {
  return x.shape.length > 1 ? x : builder.op("Reshape", [x], { shape: [1, ...x.shape] });
}

function atRank2(builder: GraphBuilder, x: Value): Value {
  const last = x.shape.at(-1) as number;
  return builder.op("Reshape", [x], { shape: [elementCount(x.shape) / last, last] });
}

/** Uniform in [-1, 1). */
function numbers(shape: readonly number[], random: RandomStream): Float32Tensor {
  const data = Array.from({ length: elementCount(shape) }, () => 2 * random.next() - 1);
  return float32(shape, data);
}

function indices(shape: readonly number[], limit: number, random: RandomStream) {
  const data = Array.from({ length: elementCount(shape) }, () => random.below(limit));
  return int64(shape, data);
}
