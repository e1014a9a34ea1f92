// The exact mean of the adapters' products (FLoRA: Wang et al. 2024, arXiv 2409.05976, section 3): the factors of all devices side
// by side have the product sum(w_i s_i B_i A_i), which a singular value decomposition brings back to theta's rank.
import { type Float32Tensor, float32, type Parameters } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { Contribution } from "../protocol.ts";
import { checkFinite, contributionCheck, inDeviceOrder, shapeMismatch } from "./contributions.ts";
import { factorName, factorOf, isLeadingPart } from "./factors.ts";
import { type Columns, productSvd } from "./low-rank.ts";
import { weightedSums } from "./mean.ts";
import { applyUpdate } from "./update.ts";

/** A contribution of a device whose adapter may have a scale of its own. */
export interface ScaledContribution extends Contribution {
  /** How often the product of the device's factors counts (s_i); the task's when left out. It started from `leadingRanks` of theta, stretched by sqrt(s / s_i). */
  readonly scale?: number;
}

/** The parameters after a round of stacking. */
export interface StackedRound {
  readonly parameters: Parameters;
  /** By adapted layer: what the rank could not hold, |mean - kept| / |mean| (Frobenius); 0 where it holds all. */
  readonly truncation: ReadonlyMap<string, number>;
}

/**
 * theta after a round: each adapter's s B A is the mean of the devices' s_i B_i A_i, rank by rank over the holders, cut back to theta's rank; the
 * head moves by the mean of its updates, and a layer that nobody carried stays.
 *
 * The new factors are B = U sqrt(S / s) and A = sqrt(S / s) V^T, with the signs of `productSvd`. Ranks that the mean does not need keep
 * theta's row of A with a zero column of B, as at the seeded start: two zeros would never learn again. Never forms [out, in].
 * Throws as `UpdateAccumulator.add` does, and `PROTOCOL_SHAPE_MISMATCH` for one factor without the other.
 */
export function stackRound(
  theta: Parameters,
  contributions: Iterable<ScaledContribution>,
  scale: number,
): StackedRound {
  const ordered = inDeviceOrder(contributions);
  const check = contributionCheck();
  for (const contribution of ordered) check(contribution);
  const parameters = new Map(applyUpdate(theta, meanOfOthers(ordered)));
  const truncation = new Map<string, number>();
  for (const module of modulesOf(ordered)) {
    const before = factorsOf(theta, module, "theta");
    const products = ordered.flatMap((one) => productOf(one, module, before, scale) ?? []);
    const { a, b, error } = factored(stacked(products, before, scale), before, scale);
    for (const [factor, tensor] of [
      ["A", a],
      ["B", b],
    ] as const) {
      checkFinite(`${factorName(module, factor)} after stacking`, tensor.data);
      parameters.set(factorName(module, factor), tensor);
    }
    truncation.set(module, error);
  }
  return { parameters, truncation };
}

/** Both factors of a layer: A [rank, in], B [out, rank]. */
interface Factors {
  readonly a: Float32Tensor;
  readonly b: Float32Tensor;
}

/** One device's share: scale * B A, by rank. */
interface Product {
  readonly weight: number;
  readonly scale: number;
  /** Columns of B, [rank][out]. */
  readonly b: Columns;
  /** Rows of A, [rank][in]. */
  readonly a: Columns;
}

function meanOfOthers(contributions: readonly Contribution[]): Parameters {
  const sums = weightedSums();
  for (const { update, weight } of contributions) {
    const others = new Map([...update].filter(([name]) => factorOf(name) === undefined));
    sums.add(others, { factor: weight, weight });
  }
  return sums.mean();
}

/** Layers of which somebody carries a factor, in name order. */
function modulesOf(contributions: readonly Contribution[]): readonly string[] {
  const names = contributions.flatMap(({ update }) => [...update.keys()]);
  return [...new Set(names.flatMap((name) => factorOf(name)?.module ?? []))].sort();
}

function factorsOf(parameters: Parameters, module: string, of: string): Factors {
  const names = { a: factorName(module, "A"), b: factorName(module, "B") };
  const [a, b] = [parameters.get(names.a), parameters.get(names.b)];
  if (a && b) return { a, b };
  const absent = a ? names.b : names.a;
  const text = `${of}: ${absent} is missing; stack needs both factors of a layer`;
  throw protocolErrors.error("PROTOCOL_SHAPE_MISMATCH", text);
}

/** What a device's factors are after its update, in float64; undefined when it does not carry the layer. */
function productOf(
  { deviceId, update, weight, scale }: ScaledContribution,
  module: string,
  before: Factors,
  globalScale: number,
): Product | undefined {
  if (![...update.keys()].some((name) => factorOf(name)?.module === module)) return undefined;
  const from = `contribution of device ${deviceId}`;
  const change = factorsOf(update, module, from);
  checkFits(from, module, change, before);
  const ownScale = scale ?? globalScale;
  const stretch = Math.sqrt(globalScale / ownScale);
  const moved = (start: Columns, by: Columns): Columns =>
    by.map((column, rank) =>
      column.map((value, i) => stretch * ((start[rank] as Float64Array)[i] as number) + value),
    );
  return {
    weight,
    scale: ownScale,
    b: moved(columnsOf(before.b), columnsOf(change.b)),
    a: moved(rowsOf(before.a), rowsOf(change.a)),
  };
}

function checkFits(from: string, module: string, change: Factors, before: Factors): void {
  for (const [key, factor] of [
    ["a", "A"],
    ["b", "B"],
  ] as const) {
    const name = factorName(module, factor);
    const [actual, expected] = [change[key].shape, before[key].shape];
    if (!isLeadingPart(name, actual, expected))
      throw shapeMismatch(`${from}: ${name}`, actual, expected);
  }
  const ranks = change.a.shape[0] as number;
  if (ranks === change.b.shape[1]) return;
  const expected = [change.b.shape[0] as number, ranks];
  throw shapeMismatch(`${from}: ${factorName(module, "B")}`, change.b.shape, expected);
}

/** The mean of the products as two stacks, rank by rank over its holders; a rank that nobody holds is theta's own. */
function stacked(
  products: readonly Product[],
  before: Factors,
  scale: number,
): { readonly left: Columns; readonly right: Columns } {
  const [b, a] = [columnsOf(before.b), rowsOf(before.a)];
  const holders = a.map((_, rank) =>
    products.reduce((sum, one) => sum + (rank < one.a.length ? one.weight : 0), 0),
  );
  const unheld = [...holders.keys()].filter((rank) => holders[rank] === 0);
  const share = (one: Product, rank: number) => one.weight / (holders[rank] as number);
  return {
    left: [
      ...products.flatMap((one) =>
        one.b.map((column, rank) => scaled(column, share(one, rank) * one.scale)),
      ),
      ...unheld.map((rank) => scaled(b[rank] as Float64Array, scale)),
    ],
    right: [...products.flatMap((one) => one.a), ...unheld.map((rank) => a[rank] as Float64Array)],
  };
}

/** The best factors of theta's rank for the product of two stacks (Eckart, Young 1936), and what they lack of it. */
function factored(
  { left, right }: { readonly left: Columns; readonly right: Columns },
  before: Factors,
  scale: number,
): Factors & { readonly error: number } {
  const rank = before.a.shape[0] as number;
  const { values, u, v } = productSvd(left, right, rank);
  const [a, b] = [float32(before.a.shape, before.a.data.slice()), float32(before.b.shape)];
  const [inSize, outSize] = [a.shape[1] as number, b.shape[0] as number];
  for (const [k, value] of values.slice(0, rank).entries()) {
    const root = Math.sqrt(value / scale);
    a.data.set(scaled(v[k] as Float64Array, root), k * inSize);
    for (let i = 0; i < outSize; i++)
      b.data[i * rank + k] = root * ((u[k] as Float64Array)[i] as number);
  }
  const squares = (some: readonly number[]) => some.reduce((sum, value) => sum + value ** 2, 0);
  const total = squares(values);
  return { a, b, error: total === 0 ? 0 : Math.sqrt(squares(values.slice(rank)) / total) };
}

/** Rows of a matrix in float64. */
function rowsOf({ shape: [rows = 0, columns = 0], data }: Float32Tensor): Columns {
  return Array.from({ length: rows }, (_, row) =>
    Float64Array.from(data.subarray(row * columns, (row + 1) * columns)),
  );
}

/** Columns of a matrix in float64. */
function columnsOf({ shape: [rows = 0, columns = 0], data }: Float32Tensor): Columns {
  return Array.from({ length: columns }, (_, column) =>
    Float64Array.from({ length: rows }, (__, row) => data[row * columns + column] as number),
  );
}

function scaled(column: Float64Array, factor: number): Float64Array {
  return column.map((value) => factor * value);
}
