// The singular value decomposition of a product of two thin matrices, without the product: thin QR of each (Gram-Schmidt, twice),
// then one-sided Jacobi (Hestenes 1958; Golub, Van Loan, Matrix Computations, 8.6.3) on the small core. All in float64; equal
// inputs give equal bits. Cost: O((m + n) k^2 + k^3) for k columns.

/** A matrix by its columns, all of one length. */
export type Columns = readonly Float64Array[];

/** L R^T = sum over i of values[i] * u[i] v[i]^T. */
export interface SingularValues {
  /** All of them, largest first; those below 1e-14 of the largest are left out. */
  readonly values: readonly number[];
  /** Orthonormal; the first of the largest entries of each is positive. As many as were asked for. */
  readonly u: Columns;
  /** Orthonormal. */
  readonly v: Columns;
}

/** Singular values of L R^T, for L [m, k] and R [n, k], and the vectors of the `most` largest; none for a product that is zero. */
export function productSvd(
  left: Columns,
  right: Columns,
  most = Number.POSITIVE_INFINITY,
): SingularValues {
  const [a, b] = [thinQr(left), thinQr(right)];
  // core = Ra Rb^T [p, q], by columns.
  const core = b.basis.map((_, j) => {
    const row = b.coefficients.map((column) => column[j] as number);
    return combination(a.coefficients, row, a.basis.length);
  });
  const { values, u, v } = jacobi(core);
  const vectors = values.slice(0, most).map((_, i) => {
    const x = combination(a.basis, u[i] as Float64Array, left[0]?.length ?? 0);
    const y = combination(b.basis, v[i] as Float64Array, right[0]?.length ?? 0);
    return signOf(x) < 0 ? [negated(x), negated(y)] : [x, y];
  });
  return {
    values,
    u: vectors.map(([x]) => x as Float64Array),
    v: vectors.map(([, y]) => y as Float64Array),
  };
}

/** What is smaller than its columns by this much is their rounding: a direction of a column's own, or an angle between two. */
const rounding = 1e-14;

/**
 * Q [m, p] orthonormal and R [p, k] with Q R = the matrix, p its rank: columns that depend on earlier ones add no direction. A second pass
 * makes Gram-Schmidt orthogonal to rounding (Giraud et al. 2005, "twice is enough").
 */
function thinQr(matrix: Columns): { readonly basis: Columns; readonly coefficients: Columns } {
  const basis: Float64Array[] = [];
  const coefficients = matrix.map((column) => {
    const rest = column.slice();
    const parts: number[] = basis.map(() => 0);
    for (let pass = 0; pass < 2; pass++) {
      for (const [i, direction] of basis.entries()) {
        const part = dot(direction, rest);
        parts[i] = (parts[i] as number) + part;
        subtract(rest, direction, part);
      }
    }
    const length = norm(rest);
    if (length > rounding * norm(column)) {
      basis.push(rest.map((value) => value / length));
      parts.push(length);
    }
    return parts;
  });
  return {
    basis,
    coefficients: coefficients.map((parts) => {
      const column = new Float64Array(basis.length);
      column.set(parts);
      return column;
    }),
  };
}

/** One-sided Jacobi: turns pairs of columns until all are orthogonal; their lengths are the singular values. */
function jacobi(matrix: Columns): SingularValues {
  const columns = matrix.map((column) => column.slice());
  const turns = columns
    .map((_, i) => columns.map((__, j) => Number(i === j)))
    .map((row) => Float64Array.from(row));
  for (let sweep = 0; sweep < mostSweeps && sweepOnce(columns, turns); sweep++);
  const found = columns
    .map((column, i) => ({ value: norm(column), column, turn: turns[i] as Float64Array }))
    .sort((a, b) => b.value - a.value);
  const least = rounding * (found[0]?.value ?? 0);
  const kept = found.filter(({ value }) => value > least);
  return {
    values: kept.map(({ value }) => value),
    u: kept.map(({ value, column }) => column.map((entry) => entry / value)),
    v: kept.map(({ turn }) => turn),
  };
}

/** Jacobi converges quadratically after a few sweeps; 10 are many for a hundred columns. */
const mostSweeps = 60;

/** Turns every pair of columns that is not orthogonal; whether there was one. */
function sweepOnce(columns: Columns, turns: Columns): boolean {
  let hasTurned = false;
  for (let q = 1; q < columns.length; q++) {
    for (let p = 0; p < q; p++) {
      const turn = turnOf(columns[p] as Float64Array, columns[q] as Float64Array);
      if (turn === undefined) continue;
      hasTurned = true;
      rotate(columns[p] as Float64Array, columns[q] as Float64Array, turn);
      rotate(turns[p] as Float64Array, turns[q] as Float64Array, turn);
    }
  }
  return hasTurned;
}

interface Turn {
  readonly cosine: number;
  readonly sine: number;
}

/** The smaller of the turns that make two columns orthogonal, undefined when they are. */
function turnOf(first: Float64Array, second: Float64Array): Turn | undefined {
  const [alpha, beta, gamma] = [dot(first, first), dot(second, second), dot(first, second)];
  if (Math.abs(gamma) <= rounding * Math.sqrt(alpha) * Math.sqrt(beta)) return undefined;
  const zeta = (beta - alpha) / (2 * gamma);
  const tangent = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
  const cosine = 1 / Math.hypot(1, tangent);
  return { cosine, sine: cosine * tangent };
}

function rotate(first: Float64Array, second: Float64Array, { cosine, sine }: Turn): void {
  for (let i = 0; i < first.length; i++) {
    const x = first[i] as number;
    const y = second[i] as number;
    first[i] = cosine * x - sine * y;
    second[i] = sine * x + cosine * y;
  }
}

function negated(column: Float64Array): Float64Array {
  return column.map((value) => -value);
}

/** Sum of the columns, each times its factor. */
function combination(columns: Columns, factors: ArrayLike<number>, length: number): Float64Array {
  const sum = new Float64Array(length);
  for (const [i, column] of columns.entries()) subtract(sum, column, -(factors[i] as number));
  return sum;
}

/** 1 or -1: the sign of the first of the largest entries. */
function signOf(column: Float64Array): 1 | -1 {
  let largest = 0;
  for (const value of column) if (Math.abs(value) > Math.abs(largest)) largest = value;
  return largest < 0 ? -1 : 1;
}

function subtract(from: Float64Array, column: Float64Array, factor: number): void {
  for (let i = 0; i < from.length; i++) {
    from[i] = (from[i] as number) - factor * (column[i] as number);
  }
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function norm(column: Float64Array): number {
  return Math.sqrt(dot(column, column));
}
