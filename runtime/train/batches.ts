// Batches: which examples a step sees, and how they become tensors. The order depends only on its key,
// never on calls made before, so that a cut, a recomputation or a new attempt sees the same batches.
import { randomStream } from "../random.ts";
import {
  type Float32Tensor,
  float32,
  type Int64Tensor,
  int64,
  type TensorBundle,
} from "../tensor.ts";

/** A tokenised text with its class; -1 where the class is unknown. */
export interface Example {
  readonly tokens: readonly number[];
  readonly label: number;
}

/** A batch as the step graphs take it, padded on the right. */
export interface Batch {
  /** Real examples in the batch; rows behind them are padding of weight 0. */
  readonly size: number;
  /** Real tokens of each row. */
  readonly lengths: readonly number[];
  readonly labels: readonly number[];
  /** Every tensor a step may need, by graph input name. */
  readonly feeds: TensorBundle;
}

/** Shape of a batch. */
export interface BatchShape {
  readonly batch: number;
  readonly sequence: number;
  readonly padTokenId: number;
  /** What a mean loss divides by, when the batch is part of a larger one: labelled examples, or predicted tokens, of the whole. */
  readonly counted?: number;
}

/**
 * Indices of the examples of `steps` batches: each epoch is a fresh shuffle, an epoch's rest opens the next
 * epoch's first batch. Fewer examples than a batch repeat within it.
 */
export function batchIndices(
  count: number,
  batchSize: number,
  steps: number,
  key: readonly (string | number)[],
): number[][] {
  const order: number[] = [];
  for (let epoch = 0; order.length < steps * batchSize; epoch++) {
    const all = Array.from({ length: count }, (_, i) => i);
    order.push(...randomStream(...key, "epoch", epoch).shuffle(all));
  }
  return Array.from({ length: steps }, (_, step) =>
    order.slice(step * batchSize, (step + 1) * batchSize),
  );
}

/** Tensors of a batch of classification examples; texts longer than the sequence are cut. */
export function makeBatch(
  examples: readonly Example[],
  { batch, sequence, padTokenId, counted }: BatchShape,
): Batch {
  const ids = new BigInt64Array(batch * sequence).fill(BigInt(padTokenId));
  examples.forEach(({ tokens }, row) => {
    const kept = Math.min(tokens.length, sequence);
    for (let i = 0; i < kept; i++) ids[row * sequence + i] = BigInt(tokens[i] as number);
  });
  const lengths = examples.map(({ tokens }) => Math.min(tokens.length, sequence));
  const labels = examples.map(({ label }) => label);
  const feeds = new Map<string, Float32Tensor | Int64Tensor>([
    ["input_ids", int64([batch, sequence], ids)],
    ...maskFeeds(lengths, { batch, sequence }),
    ...labelFeeds(labels, batch, counted),
  ]);
  return { size: examples.length, lengths, labels, feeds };
}

/** The attention mask [batch, seq] and pooling matrix [batch, seq] that right-padded lengths imply. */
export function maskFeeds(
  lengths: readonly number[],
  { batch, sequence }: { readonly batch: number; readonly sequence: number },
): Map<string, Float32Tensor | Int64Tensor> {
  const mask = new BigInt64Array(batch * sequence);
  const pooling = new Float32Array(batch * sequence);
  for (let row = 0; row < batch; row++) {
    // A padding row keeps one visible token: an empty softmax would be undefined.
    const length = Math.max(1, lengths[row] ?? 1);
    mask.fill(1n, row * sequence, row * sequence + length);
    pooling[row * sequence + length - 1] = 1;
  }
  return new Map<string, Float32Tensor | Int64Tensor>([
    ["attention_mask", int64([batch, sequence], mask)],
    ["pooling", float32([batch, sequence], pooling)],
  ]);
}

/** Labels [batch] and weights [batch] of a mean over the labelled rows, or of their share in a mean over `counted` ones. */
export function labelFeeds(
  labels: readonly number[],
  batch: number,
  counted?: number,
): Map<string, Float32Tensor | Int64Tensor> {
  const known = counted ?? labels.filter((label) => label >= 0).length;
  const weights = new Float32Array(batch);
  const ids = new BigInt64Array(batch);
  labels.forEach((label, row) => {
    if (label < 0) return;
    ids[row] = BigInt(label);
    weights[row] = 1 / known;
  });
  return new Map<string, Float32Tensor | Int64Tensor>([
    ["labels", int64([batch], ids)],
    ["weights", float32([batch], weights)],
  ]);
}
