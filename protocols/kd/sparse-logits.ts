// Logits of many rows (texts, or positions of a language model), of each row the largest and what the dropped ones
// weigh together. Held so, the opinions of many devices on many positions of a vocabulary fit in memory.
import { protocolErrors } from "../errors.ts";

/** Logits by row; of one row the kept classes rise. */
export interface SparseLogits {
  readonly classes: number;
  readonly rows: number;
  /** Where each row's kept logits begin, [rows + 1]. */
  readonly starts: Uint32Array;
  /** Class of each kept logit. */
  readonly indices: Uint32Array;
  readonly values: Float32Array;
  /** T log(sum of exp(l / T)) over a row's dropped classes, at the task's temperature T: the one logit that weighs as much as they do. Unread where nothing was dropped. */
  readonly rests: Float32Array;
}

/** Rows in the order of their logits, largest first: the material to choose from. */
export interface RankedLogits {
  readonly classes: number;
  readonly temperature: number;
  readonly rows: readonly RankedRow[];
}

/** The largest logits of one row. */
export interface RankedRow {
  readonly indices: Uint32Array;
  readonly values: Float32Array;
  /** T log(sum of exp(l / T)) over the classes that are not among them; -Infinity when all are. */
  readonly beyond: number;
}

/**
 * The `most` largest logits of a row, largest first and of equal ones the first class first. Throws
 * `PROTOCOL_TENSOR_INVALID` when a logit is not finite.
 */
export function rankRow(logits: Float32Array, most: number, temperature: number): RankedRow {
  checkFinite(logits);
  const kept = Math.min(most, logits.length);
  const least = kept < logits.length ? nthLargest(logits, kept) : Number.NEGATIVE_INFINITY;
  // Above the threshold all are kept; of those that equal it, the first.
  let equals = kept;
  for (let i = 0; i < logits.length; i++) if ((logits[i] as number) > least) equals--;
  const chosen: number[] = [];
  const dropped = expSum(temperature);
  for (let i = 0; i < logits.length; i++) {
    const value = logits[i] as number;
    if (value > least || (value === least && equals-- > 0)) chosen.push(i);
    else dropped.add(value);
  }
  chosen.sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
  const indices = Uint32Array.from(chosen);
  const values = Float32Array.from(chosen, (index) => logits[index] as number);
  return { indices, values, beyond: dropped.logit() };
}

/** Keeps `counts[row]` (1 or more) of the largest of each row. */
export function keepCounts(
  { classes, rows, temperature }: RankedLogits,
  counts: readonly number[],
): SparseLogits {
  const starts = new Uint32Array(rows.length + 1);
  counts.forEach((count, row) => {
    starts[row + 1] = (starts[row] as number) + count;
  });
  const total = starts[rows.length] as number;
  const sparse = {
    classes,
    rows: rows.length,
    starts,
    indices: new Uint32Array(total),
    values: new Float32Array(total),
    rests: new Float32Array(rows.length),
  };
  rows.forEach(({ indices, values, beyond }, row) => {
    const count = counts[row] as number;
    const byClass = Array.from({ length: count }, (_, i) => i).sort(
      (a, b) => (indices[a] as number) - (indices[b] as number),
    );
    byClass.forEach((rank, i) => {
      sparse.indices[(starts[row] as number) + i] = indices[rank] as number;
      sparse.values[(starts[row] as number) + i] = values[rank] as number;
    });
    const dropped = expSum(temperature, beyond);
    for (const value of values.subarray(count)) dropped.add(value);
    sparse.rests[row] = dropped.logit();
  });
  return sparse;
}

/** A sum of exp(logit / T) that cannot overflow, given as a logit. */
function expSum(temperature: number, start = Number.NEGATIVE_INFINITY) {
  let largest = start;
  let sum = start === Number.NEGATIVE_INFINITY ? 0 : 1;
  return {
    add: (logit: number): void => {
      if (logit > largest) {
        sum = sum * Math.exp((largest - logit) / temperature) + 1;
        largest = logit;
      } else sum += Math.exp((logit - largest) / temperature);
    },
    logit: (): number => largest + temperature * Math.log(sum || 1),
  };
}

/** The n-th largest value (Hoare's quickselect). */
function nthLargest(values: Float32Array, n: number): number {
  const work = values.slice();
  let from = 0;
  let to = work.length - 1;
  while (from < to) {
    const [right, left] = partition(work, from, to);
    if (n - 1 <= right) to = right;
    else if (n - 1 >= left) from = left;
    else break;
  }
  return work[n - 1] as number;
}

/** Puts what is above a pivot before what is below it; gives the end of the first and the start of the last part. */
function partition(work: Float32Array, from: number, to: number): readonly [number, number] {
  const pivot = work[(from + to) >>> 1] as number;
  let left = from;
  let right = to;
  while (left <= right) {
    while ((work[left] as number) > pivot) left++;
    while ((work[right] as number) < pivot) right--;
    if (left > right) break;
    const swapped = work[left] as number;
    work[left++] = work[right] as number;
    work[right--] = swapped;
  }
  return [right, left];
}

function checkFinite(logits: Float32Array): void {
  const at = logits.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  throw protocolErrors.error(
    "PROTOCOL_TENSOR_INVALID",
    `logits: that of class ${at} of ${logits.length} is not finite`,
  );
}
