// Batches of texts of similar length: each runs on a graph of its bucket's length, so that little padding is computed.
import { randomStream } from "../random.ts";
import type { TensorBundle } from "../tensor.ts";
import type { StepRunner } from "./steps.ts";

/** Lengths of graphs for texts of up to `sequence` tokens: 32, 64, 96, 128, then half as long again and doubled in turn. */
export function lengthBuckets(sequence: number): readonly number[] {
  const lengths: number[] = [];
  for (let length = 32; length < sequence; length = nextLength(length)) lengths.push(length);
  return [...lengths, sequence];
}

/** The shortest bucket that holds a text of `tokens` tokens, the longest for texts beyond it. */
export function bucketOf(buckets: readonly number[], tokens: number): number {
  return buckets.find((length) => tokens <= length) ?? (buckets.at(-1) as number);
}

/** How the order of bucketed batches is made. */
export interface BucketedOrder {
  /** Bucket of each example. */
  readonly buckets: readonly number[];
  readonly batchSize: number;
  /** Batches wanted. */
  readonly count: number;
  readonly key: readonly (string | number)[];
}

/**
 * Indices of the examples of each batch: every epoch is a fresh shuffle, sorted by bucket, cut into batches and these
 * shuffled, so that what a batch holds and when it comes depend on the key alone. An epoch's rest joins the next one.
 */
export function bucketedIndices({ buckets, batchSize, count, key }: BucketedOrder): number[][] {
  const all = buckets.map((_, i) => i);
  const batches: number[][] = [];
  let rest: number[] = [];
  for (let epoch = 0; batches.length < count; epoch++) {
    const order = [...rest, ...randomStream(...key, "epoch", epoch).shuffle(all)];
    const whole = order.length - (order.length % batchSize);
    rest = order.slice(whole);
    const sorted = order
      .slice(0, whole)
      .sort((a, b) => (buckets[a] as number) - (buckets[b] as number));
    const chunks = Array.from({ length: whole / batchSize }, (_, i) =>
      sorted.slice(i * batchSize, (i + 1) * batchSize),
    );
    batches.push(...randomStream(...key, "batches", epoch).shuffle(chunks));
  }
  return batches.slice(0, count);
}

/** One step for batches of several lengths, from the loaded steps by length; the batch's `input_ids` choose. */
export function bucketedStep(steps: ReadonlyMap<number, StepRunner>): StepRunner {
  const stepOf = (feeds: TensorBundle) =>
    steps.get(feeds.get("input_ids")?.shape[1] ?? 0) as StepRunner;
  return {
    withMasks: (feeds, key) => stepOf(feeds).withMasks(feeds, key),
    run: (parameters, feeds) => stepOf(feeds).run(parameters, feeds),
  };
}

/** Below 128 tokens every 32 pay; above, few graphs matter more than the last bit of padding. */
function nextLength(length: number): number {
  if (length < 128) return length + 32;
  const isPowerOfTwo = (length & (length - 1)) === 0;
  return isPowerOfTwo ? length * 1.5 : (length / 3) * 4;
}
