// Label skew over devices (Yurochkin et al. 2019): each class is shared out by a draw of its own.
import type { RandomStream } from "../runtime/index.ts";

/** How rows are shared out. */
export interface SkewOptions {
  readonly parties: number;
  /** One draw of the parties' shares of a class; they add up to 1. */
  readonly drawShares: (random: RandomStream, parties: number) => readonly number[];
  /** A party that drew more keeps so many, in the proportions of its draw. */
  readonly maximumRows: number;
  /** A draw that leaves a party fewer rows is drawn again. */
  readonly minimumRows: number;
  /** So is one that leaves a party a smaller part of any class. */
  readonly minimumClassFraction: number;
}

/** The rows of each party, class by class; undefined when no draw keeps the minimums. */
export function dealSkewed<T>(
  random: RandomStream,
  classes: readonly (readonly T[])[],
  options: SkewOptions,
): T[][] | undefined {
  const sizes = classes.map((rows) => rows.length);
  for (let draw = 0; draw < maximumDraws; draw++) {
    const counts = drawCounts(random, sizes, options);
    if (isFair(counts, options)) return deal(classes, counts, options.parties);
  }
  return undefined;
}

/** One draw of Dirichlet(alpha, ..., alpha): gamma variates over their sum. */
export function dirichlet(random: RandomStream, parties: number, alpha: number): number[] {
  const gammas = Array.from({ length: parties }, () => gamma(random, alpha));
  const total = gammas.reduce((sum, value) => sum + value, 0);
  // A tiny alpha may underflow every variate; one party then takes all, as it would.
  return total > 0 ? gammas.map((value) => value / total) : gammas.map((_, i) => (i === 0 ? 1 : 0));
}

/** Four devices keep the demo's limits about once in 40 draws. */
const maximumDraws = 10_000;

/** Rows of each class per party: `counts[class][party]`. */
function drawCounts(
  random: RandomStream,
  sizes: readonly number[],
  { parties, drawShares, maximumRows }: SkewOptions,
): number[][] {
  const drawn = sizes.map((size) =>
    drawShares(random, parties).map((share) => Math.floor(share * size)),
  );
  const totals = columnSums(drawn, parties);
  return drawn.map((row) =>
    row.map((count, party) =>
      Math.floor(count * Math.min(1, maximumRows / (totals[party] as number))),
    ),
  );
}

function isFair(
  counts: readonly (readonly number[])[],
  { parties, minimumRows, minimumClassFraction }: SkewOptions,
): boolean {
  return columnSums(counts, parties).every(
    (size, party) =>
      size >= minimumRows &&
      counts.every((row) => (row[party] as number) >= minimumClassFraction * size),
  );
}

function deal<T>(
  classes: readonly (readonly T[])[],
  counts: readonly (readonly number[])[],
  parties: number,
): T[][] {
  const hands = Array.from({ length: parties }, (): T[] => []);
  for (const [index, rows] of classes.entries()) {
    let start = 0;
    for (const [party, hand] of hands.entries()) {
      const count = counts[index]?.[party] ?? 0;
      hand.push(...rows.slice(start, start + count));
      start += count;
    }
  }
  return hands;
}

function columnSums(rows: readonly (readonly number[])[], columns: number): number[] {
  return Array.from({ length: columns }, (_, column) =>
    rows.reduce((sum, row) => sum + (row[column] as number), 0),
  );
}

/** Marsaglia and Tsang 2000; below 1 by their boost Gamma(a) = Gamma(a + 1) * U^(1/a). */
function gamma(random: RandomStream, shape: number): number {
  if (shape < 1) return gamma(random, shape + 1) * (1 - random.next()) ** (1 / shape);
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = random.normal();
    const v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(1 - random.next()) < x * x * 0.5 + d - d * v + d * Math.log(v))
      return d * v;
  }
}
