// Dense matrices in plain float64: the slow way, to hold the quick one to.

/** A matrix by its rows. */
export type Matrix = readonly (readonly number[])[];

/** Sum of the matrices, each times its factor. */
export const combine = (...terms: readonly (readonly [number, Matrix])[]): Matrix =>
  (terms[0]?.[1] ?? []).map((row, i) =>
    row.map((_, j) =>
      terms.reduce((sum, [factor, matrix]) => sum + factor * (matrix[i]?.[j] ?? 0), 0),
    ),
  );

/** Square root of the sum of squares. */
export const frobenius = (matrix: Matrix): number => Math.hypot(...matrix.flat());

/** Distance of x from y, relative to y where that is not zero. */
export const apart = (x: Matrix, y: Matrix): number =>
  frobenius(combine([1, x], [-1, y])) / (frobenius(y) || 1);

/** The largest singular triple of a matrix, by power iteration on M^T M. */
export function dominant(matrix: Matrix): Matrix {
  let v = (matrix[0] ?? []).map((_, j) => 1 + j / 7);
  let u: number[] = [];
  for (let i = 0; i < 3000; i++) {
    u = matrix.map((row) => row.reduce((sum, value, j) => sum + value * (v[j] ?? 0), 0));
    const w = v.map((_, j) => matrix.reduce((sum, row, k) => sum + (row[j] ?? 0) * (u[k] ?? 0), 0));
    const length = Math.hypot(...w);
    v = w.map((value) => value / length);
  }
  u = matrix.map((row) => row.reduce((sum, value, j) => sum + value * (v[j] ?? 0), 0));
  return u.map((x) => v.map((y) => x * y));
}
