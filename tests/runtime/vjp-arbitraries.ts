// What the gradient of each operator is tried on: random shapes, attributes and inputs, in ranges where the
// operator is smooth. A new operator without an entry does not compile.
import * as fc from "fast-check";
import type { OpAttributes, OpName } from "../../runtime/graph/ops.ts";
import { type RandomStream, randomStream } from "../../runtime/random.ts";
import {
  elementCount,
  type Float32Tensor,
  float32,
  int8,
  int64,
  type Tensor,
} from "../../runtime/tensor.ts";
import {
  broadcastInto,
  broadcastPairs,
  divisors,
  indexShapes,
  indices,
  numbers,
  shapes,
  sizes,
  spread,
} from "./vjp-tensors.ts";

/** One application of an operator; every float32 input is differentiated but those that are `frozen`. */
export interface VjpExample<K extends OpName> {
  readonly inputs: readonly Tensor[];
  readonly attributes: OpAttributes[K];
  /** Float32 inputs that have no gradient, such as tables of angles; none when left out. */
  readonly frozen?: readonly number[];
  /** Outputs that gradients flow into; the first when left out. */
  readonly seeded?: readonly number[];
}

const none = {};

/** Examples of each operator; what fast-check draws in them shrinks, their numbers follow from a seed. */
export const vjpArbitraries: { readonly [K in OpName]: fc.Arbitrary<VjpExample<K>> } = {
  Add: binary(numbers),
  Sub: binary(numbers),
  Mul: binary(numbers),
  Div: binary(divisors),
  Neg: unary(-1, 1),
  Exp: unary(-1, 1),
  Log: unary(0.5, 2),
  Sqrt: unary(0.5, 2),
  Tanh: unary(-2, 2),
  Sigmoid: unary(-3, 3),
  // Both bends, both tails.
  Gelu: unary(-4, 4),
  MatMul: withNumbers(
    fc.record({ leading: shapes(0, 2, 4), m: sizes, k: sizes, n: sizes }),
    ({ leading, m, k, n }, random) => ({
      inputs: [numbers(random, [...leading, m, k]), numbers(random, [...leading, k, n])],
      attributes: none,
    }),
  ),
  Gemm: withNumbers(
    followed(fc.record({ m: sizes, k: sizes, n: sizes }), ({ m, n }) => ({
      transA: fc.boolean(),
      transB: fc.boolean(),
      alpha: fc.constantFrom(1, 0.5, -2),
      bias: fc.constantFrom(undefined, [n], [m, n]),
    })),
    ({ m, k, n, bias, ...attributes }, random) => ({
      inputs: [
        numbers(random, attributes.transA ? [k, m] : [m, k]),
        numbers(random, attributes.transB ? [n, k] : [k, n]),
        ...(bias ? [numbers(random, bias)] : []),
      ],
      attributes,
    }),
  ),
  Reshape: withNumbers(
    followed(shaped(0, 3), ({ shape }) => ({ to: regrouped(shape) })),
    ({ shape, to }, random) => ({ inputs: [numbers(random, shape)], attributes: { shape: to } }),
  ),
  Transpose: withNumbers(
    followed(shaped(0, 4), ({ shape }) => ({ perm: shuffled([...shape.keys()]) })),
    ({ shape, perm }, random) => ({ inputs: [numbers(random, shape)], attributes: { perm } }),
  ),
  Expand: withNumbers(
    followed(shaped(0, 3), ({ shape }) => ({ from: broadcastInto(shape) })),
    ({ shape, from }, random) => ({ inputs: [numbers(random, from)], attributes: { shape } }),
  ),
  Concat: withNumbers(
    fc.record({ site: axes(), lengths: fc.array(sizes, { minLength: 1, maxLength: 3 }) }),
    ({ site: { shape, axis }, lengths }, random) => ({
      inputs: lengths.map((length) => numbers(random, shape.with(axis, length))),
      attributes: { axis },
    }),
  ),
  Split: withNumbers(
    followed(
      fc.record({ site: axes(), parts: fc.array(sizes, { minLength: 1, maxLength: 3 }) }),
      ({ parts }) => ({ seeded: fc.subarray([...parts.keys()], { minLength: 1 }) }),
    ),
    ({ site: { shape, axis }, parts, seeded }, random) => ({
      inputs: [numbers(random, shape.with(axis, sum(parts)))],
      attributes: { axis, sizes: parts },
      seeded,
    }),
  ),
  ReduceSum: reduction(),
  ReduceMean: reduction(),
  LogSumExp: withNumbers(shapes(1, 3), (shape, random) => ({
    inputs: [numbers(random, shape, -2, 2)],
    attributes: none,
  })),
  Softmax: withNumbers(
    fc.record({ shape: shapes(1, 3), masked: fc.boolean() }),
    ({ shape, masked }, random) => {
      const x = numbers(random, shape, -2, 2);
      return { inputs: [masked ? maskFirst(x) : x], attributes: none };
    },
  ),
  LayerNormalization: withNumbers(
    fc.record({ shape: shapes(1, 3), biased: fc.boolean(), epsilon: fc.constantFrom(1e-5, 0.1) }),
    ({ shape, biased, epsilon }, random) => {
      const row = shape.slice(-1);
      const parts = biased ? [shape, row, row] : [shape, row];
      return { inputs: parts.map((part) => spread(random, part)), attributes: { epsilon } };
    },
  ),
  // Away from zero, where a row of one element bends too sharply for differences.
  RMSNormalization: withNumbers(
    fc.record({ shape: shapes(1, 3), epsilon: fc.constantFrom(1e-5, 0.1) }),
    ({ shape, epsilon }, random) => ({
      inputs: [divisors(random, shape), numbers(random, shape.slice(-1))],
      attributes: { epsilon },
    }),
  ),
  // Any numbers will do for the tables of angles, which are frozen: the operator is linear in x.
  RotaryEmbedding: withNumbers(
    fc.record({ batch: sizes, sequence: sizes, heads: sizes, half: sizes, further: sizes }),
    ({ batch, sequence, heads, half, further }, random) => {
      const rows = sequence + further;
      const places = Array.from({ length: batch * sequence }, () => random.below(rows));
      return {
        inputs: [
          numbers(random, [batch, sequence, heads * 2 * half]),
          numbers(random, [rows, half]),
          numbers(random, [rows, half]),
          int64([batch, sequence], places),
        ],
        attributes: { heads },
        frozen: [1, 2],
      };
    },
  ),
  Gather: withNumbers(
    followed(fc.record({ table: shapes(1, 3), places: shapes(0, 2) }), ({ table, places }) => ({
      rows: indices(places, table[0] as number),
    })),
    ({ table, rows }, random) => ({ inputs: [numbers(random, table), rows], attributes: none }),
  ),
  GatherElements: withNumbers(indexed(), ({ shape, axis, places }, random) => ({
    inputs: [numbers(random, shape), places],
    attributes: { axis },
  })),
  ScatterElements: withNumbers(indexed(), ({ shape, axis, places }, random) => ({
    inputs: [numbers(random, shape), places, numbers(random, places.shape)],
    attributes: { axis },
  })),
  // The third input is waited for and not read.
  DequantizeLinear: withNumbers(
    fc.record({ blocks: sizes, blockSize: sizes, columns: sizes, after: shapes(0, 2) }),
    ({ blocks, blockSize, columns, after }, random) => {
      const shape = [blocks * blockSize, columns];
      const codes = Int8Array.from({ length: elementCount(shape) }, () => random.below(256) - 128);
      const scales = numbers(random, [blocks, columns]);
      return {
        inputs: [int8(shape, codes), scales, numbers(random, after)],
        attributes: { blockSize },
        frozen: [2],
      };
    },
  ),
  // To other types there is no gradient.
  Cast: withNumbers(shapes(0, 3), (shape, random) => ({
    inputs: [numbers(random, shape)],
    attributes: { to: "float32" as const },
  })),
};

/** An example from a drawn plan and a stream of numbers; a failure shrinks the plan. */
function withNumbers<P, E>(
  plans: fc.Arbitrary<P>,
  make: (plan: P, random: RandomStream) => E,
): fc.Arbitrary<E> {
  return fc.tuple(plans, fc.nat()).map(([plan, seed]) => make(plan, randomStream("vjp", seed)));
}

/** A plan and what can be drawn only once it is known. */
function followed<P, M>(
  plans: fc.Arbitrary<P>,
  more: (plan: P) => { readonly [Key in keyof M]: fc.Arbitrary<M[Key]> },
): fc.Arbitrary<P & M> {
  return plans.chain((plan) => fc.record(more(plan)).map((rest) => ({ ...plan, ...(rest as M) })));
}

function binary(second: typeof numbers | typeof divisors) {
  return withNumbers(broadcastPairs(), ([a, b], random) => ({
    inputs: [numbers(random, a), second(random, b)],
    attributes: none,
  }));
}

function unary(from: number, to: number) {
  return withNumbers(shapes(0, 3), (shape, random) => ({
    inputs: [numbers(random, shape, from, to)],
    attributes: none,
  }));
}

function reduction() {
  const plans = followed(shaped(0, 3), ({ shape }) => ({
    axes: fc.subarray([...shape.keys()]),
    keepDims: fc.boolean(),
  }));
  return withNumbers(plans, ({ shape, ...attributes }, random) => ({
    inputs: [numbers(random, shape)],
    attributes,
  }));
}

function shaped(minRank: number, maxRank: number) {
  return fc.record({ shape: shapes(minRank, maxRank) });
}

/** A shape and one of its axes. */
function axes() {
  return followed(shaped(1, 3), ({ shape }) => ({ axis: fc.constantFrom(...shape.keys()) }));
}

/** Data, an axis and indices along it, of any shape that fits. */
function indexed() {
  const plans = followed(axes(), ({ shape, axis }) => ({ form: indexShapes(shape, axis) }));
  return followed(plans, ({ shape, axis, form }) => ({
    places: indices(form, shape[axis] as number),
  }));
}

/** Other shapes of as many elements. */
function regrouped(shape: readonly number[]): fc.Arbitrary<readonly number[]> {
  return fc.oneof(
    shuffled(shape),
    fc.constantFrom([elementCount(shape)], [1, ...shape], [...shape, 1]),
  );
}

function shuffled(items: readonly number[]): fc.Arbitrary<readonly number[]> {
  return fc.shuffledSubarray([...items], { minLength: items.length });
}

/** The first element of every second row far below the others, as a masked position makes it. */
function maskFirst({ shape, data }: Float32Tensor): Float32Tensor {
  const width = shape.at(-1) ?? 1;
  return float32(
    shape,
    data.map((value, i) => (i % (2 * width) === 0 ? -1e9 : value)),
  );
}

function sum(parts: readonly number[]): number {
  return parts.reduce((total, part) => total + part, 0);
}
