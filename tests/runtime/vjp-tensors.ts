// Shapes, axes, indices and numbers that operators are tried on: what fast-check draws and shrinks, and
// the numbers that follow from a seed.
import * as fc from "fast-check";
import type { RandomStream } from "../../runtime/random.ts";
import {
  elementCount,
  type Float32Tensor,
  float32,
  type Int64Tensor,
  int64,
} from "../../runtime/tensor.ts";

/** One to five elements: 1 is the edge, and 5 divides nothing. */
export const sizes: fc.Arbitrary<number> = fc.integer({ min: 1, max: 5 });

/** Shapes of `minRank` to `maxRank` axes, of at most `most` elements: more cost time and show nothing new. */
export function shapes(
  minRank: number,
  maxRank: number,
  most = 48,
): fc.Arbitrary<readonly number[]> {
  return fc
    .array(sizes, { minLength: minRank, maxLength: maxRank })
    .filter((shape) => elementCount(shape) <= most);
}

/** Two shapes that broadcast against each other: leading axes left out and sizes of one, on either side. */
export function broadcastPairs(): fc.Arbitrary<readonly [readonly number[], readonly number[]]> {
  return shapes(0, 3).chain((shape) => fc.tuple(broadcastInto(shape), broadcastInto(shape)));
}

/** Shapes that broadcast to `shape`. */
export function broadcastInto(shape: readonly number[]): fc.Arbitrary<readonly number[]> {
  const rank = shape.length;
  return fc
    .record({
      missing: fc.integer({ min: 0, max: rank }),
      single: fc.array(fc.boolean(), { minLength: rank, maxLength: rank }),
    })
    .map(({ missing, single }) =>
      shape.map((size, axis) => (single[axis] ? 1 : size)).slice(missing),
    );
}

/** Indices into an axis of `size` elements; repeats are likely, negative ones count from the end. */
export function indices(shape: readonly number[], size: number): fc.Arbitrary<Int64Tensor> {
  const count = elementCount(shape);
  return fc
    .array(fc.integer({ min: -size, max: size - 1 }), { minLength: count, maxLength: count })
    .map((places) => int64(shape, places));
}

/** Shapes that indices along `axis` may have: any size there, no more than the data's elsewhere. */
export function indexShapes(
  data: readonly number[],
  axis: number,
): fc.Arbitrary<readonly number[]> {
  return fc.tuple(
    ...data.map((size, i) => (i === axis ? sizes : fc.integer({ min: 1, max: size }))),
  );
}

/** Uniform between -1 and 1, or `from` and `to`. */
export function numbers(
  random: RandomStream,
  shape: readonly number[],
  from = -1,
  to = 1,
): Float32Tensor {
  const data = Array.from(
    { length: elementCount(shape) },
    () => from + (to - from) * random.next(),
  );
  return float32(shape, data);
}

/** On both sides of zero and at least 1 away, where 1 / x is tame. */
export function divisors(random: RandomStream, shape: readonly number[]): Float32Tensor {
  const { data } = numbers(random, shape);
  return float32(
    shape,
    data.map((value) => (value < 0 ? value - 1 : value + 1)),
  );
}

/** Rows whose elements lie about 1 apart in a random order, so that no row of two or more is nearly constant. */
export function spread(random: RandomStream, shape: readonly number[]): Float32Tensor {
  const width = shape.at(-1) ?? 1;
  const rows = elementCount(shape) / width;
  const places = Array.from({ length: width }, (_, i) => i - width / 2);
  const data = Array.from({ length: rows }, () => random.shuffle(places)).flat();
  return float32(
    shape,
    data.map((place) => place + 0.5 * random.next()),
  );
}
