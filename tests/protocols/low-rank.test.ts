// The singular value decomposition of a thin product, against the dense product.
import fc from "fast-check";
import t from "tap";
import { type Columns, productSvd } from "../../protocols/aggregation/low-rank.ts";
import { randomStream } from "../../runtime/index.ts";
import { combine, frobenius, type Matrix } from "./matrices.ts";

const dense = (
  left: Columns,
  right: Columns,
  factors: readonly number[] = left.map(() => 1),
): Matrix =>
  Array.from({ length: left[0]?.length ?? 0 }, (_, i) =>
    Array.from({ length: right[0]?.length ?? 0 }, (__, j) =>
      left.reduce(
        (sum, column, k) => sum + (factors[k] ?? 0) * (column[i] ?? 0) * (right[k]?.[j] ?? 0),
        0,
      ),
    ),
  );

function isOrthonormal(columns: Columns): boolean {
  return columns.every((x, i) =>
    columns.every((y, j) => {
      const inner = x.reduce((sum, value, k) => sum + value * (y[k] ?? 0), 0);
      return Math.abs(inner - Number(i === j)) < 1e-12;
    }),
  );
}

t.test("a product's singular values are those of the dense matrix, by hand", async (t) => {
  const left = [Float64Array.of(0, 0, -3), Float64Array.of(0, 2, 0)];
  const right = [Float64Array.of(1, 0), Float64Array.of(0, 1)];
  const { values, u, v } = productSvd(left, right);
  t.same(values, [3, 2]);
  t.same(
    u.map((x) => [...x].map((value) => value + 0)),
    [
      [0, 0, 1],
      [0, 1, 0],
    ],
  );
  t.same(
    v.map((x) => [...x].map((value) => value + 0)),
    [
      [-1, 0],
      [0, 1],
    ],
  );
  // [[1, 1], [0, 1]]: the golden ratio and its inverse.
  const golden = productSvd(
    [Float64Array.of(1, 0), Float64Array.of(1, 1)],
    [Float64Array.of(1, 0), Float64Array.of(0, 1)],
  );
  for (const [i, value] of [(1 + Math.sqrt(5)) / 2, 2 / (1 + Math.sqrt(5))].entries()) {
    t.ok(Math.abs((golden.values[i] ?? 0) - value) < 1e-15);
  }
});

t.test("any product is the sum of its singular triples, which are orthonormal", async (t) => {
  const size = fc.integer({ min: 1, max: 9 });
  const shape = fc.record({ m: size, n: size, k: fc.integer({ min: 0, max: 14 }) });
  // Few distinct values, so that columns repeat, vanish and depend on each other; and all that float32 can say.
  const entry = fc.oneof(
    fc.constantFrom(0, 0, 1, -1, 2),
    fc.float({ noNaN: true, noDefaultInfinity: true }),
  );
  fc.assert(
    fc.property(
      shape.chain(({ m, n, k }) => {
        const column = (length: number) =>
          fc.array(entry, { minLength: length, maxLength: length });
        const columns = (length: number) =>
          fc.array(column(length), { minLength: k, maxLength: k });
        return fc.tuple(columns(m), columns(n));
      }),
      ([leftRows, rightRows]) => {
        const [left, right] = [leftRows, rightRows].map((rows) =>
          rows.map((row) => Float64Array.from(row)),
        );
        const { values, u, v } = productSvd(left ?? [], right ?? []);
        const expected = dense(left ?? [], right ?? []);
        const scale = frobenius(
          dense(
            (left ?? []).map((x) => x.map(Math.abs)),
            (right ?? []).map((x) => x.map(Math.abs)),
          ),
        );
        const lost =
          values.length === 0
            ? frobenius(expected)
            : frobenius(combine([1, dense(u, v, values)], [-1, expected]));
        // Rounding is relative to what was added up, of which a sum may cancel all.
        t.ok(lost <= 1e-12 * scale, `lost ${lost} of ${scale}`);
        t.ok(isOrthonormal(u) && isOrthonormal(v), "orthonormal");
        t.ok(
          values.every((value, i) => value > 0 && value <= (values[i - 1] ?? value)),
          "sorted",
        );
        for (const column of u) {
          const largest = Math.max(...column.map(Math.abs));
          t.equal(
            column.find((value) => Math.abs(value) === largest),
            largest,
            "sign",
          );
        }
      },
    ),
  );
});

t.test("a hundred stacked columns converge, nearly equal ones too", async (t) => {
  const random = randomStream("stack", "large");
  const base = Array.from({ length: 8 }, () =>
    Float64Array.from({ length: 200 }, () => random.normal()),
  );
  const near = (scale: number) =>
    Array.from({ length: 96 }, (_, i) =>
      (base[i % 8] as Float64Array).map((value) => value + scale * random.normal()),
    );
  const [left, right] = [near(1e-3), near(1e-9)];
  const { values, u, v } = productSvd(left, right);
  const expected = dense(left, right);
  t.ok(frobenius(combine([1, dense(u, v, values)], [-1, expected])) < 1e-12 * frobenius(expected));
  t.ok(isOrthonormal(u) && isOrthonormal(v));
});
