// How a batch lies at a cut, and how it travels: the real tokens of each text one after another. Padding stays at home;
// no number of a text depends on it.
import { type Float32Tensor, float32 } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { Task } from "../task.ts";
import type { Cuts } from "./cut.ts";

/** Shape of a batch at a cut, [batch * sequence, hidden] as graphs take it. */
export interface RowLayout {
  readonly batch: number;
  /** Places of each row; 1 behind the last block of a classifier, which computes the pooled token alone. */
  readonly sequence: number;
  readonly hidden: number;
}

/** Where the front ends. */
export function cutLayout({ training, manifest }: Task): RowLayout {
  const { batchSize, sequenceLength } = training;
  return { batch: batchSize, sequence: sequenceLength, hidden: manifest.config.hiddenSize };
}

/** Where the middle of a U-shape ends. */
export function middleLayout(task: Task, { tailFrom }: Cuts): RowLayout {
  const layout = cutLayout(task);
  const pools = task.head.kind === "classification" && tailFrom === task.manifest.config.layers;
  return pools ? { ...layout, sequence: 1 } : layout;
}

/** Tokens that travel of each text: a text without any keeps one, as it does in the attention mask. */
function tokensOf(lengths: readonly number[], { sequence }: RowLayout): number[] {
  return lengths.map((length) => Math.min(sequence, Math.max(1, length)));
}

/** Shape of a batch on its way, [tokens, hidden]. */
export function packedShape(lengths: readonly number[], layout: RowLayout): [number, number] {
  const tokens = tokensOf(lengths, layout).reduce((sum, count) => sum + count, 0);
  return [tokens, layout.hidden];
}

/** The real tokens [tokens, hidden] of `padded` [batch * sequence, hidden]. */
export function packRows(
  { data }: Float32Tensor,
  lengths: readonly number[],
  layout: RowLayout,
): Float32Tensor {
  const packed = float32(packedShape(lengths, layout));
  for (const { from, size, paddedFrom } of places(lengths, layout)) {
    packed.data.set(data.subarray(paddedFrom, paddedFrom + size), from);
  }
  return packed;
}

/** A padded batch [batch * sequence, hidden] of the real tokens `packed`; padding is zero. */
export function unpackRows(
  packed: Float32Tensor,
  lengths: readonly number[],
  layout: RowLayout,
): Float32Tensor {
  const { batch, sequence, hidden } = layout;
  const padded = float32([batch * sequence, hidden]);
  for (const { from, size, paddedFrom } of places(lengths, layout)) {
    padded.data.set(packed.data.subarray(from, from + size), paddedFrom);
  }
  return padded;
}

/** Throws `PROTOCOL_PAYLOAD_INVALID` for lengths that no batch of the task has. */
export function checkLengths(lengths: readonly number[], { batch, sequence }: RowLayout): void {
  if (lengths.length <= batch && lengths.every((length) => length <= sequence)) return;
  throw protocolErrors.error(
    "PROTOCOL_PAYLOAD_INVALID",
    `split: lengths exceed a batch of ${batch} x ${sequence} tokens`,
  );
}

/** Values of each row on its way. */
export function rowSizes(lengths: readonly number[], layout: RowLayout): number[] {
  return tokensOf(lengths, layout).map((tokens) => tokens * layout.hidden);
}

/** Where each row's values are, packed and padded. */
function places(lengths: readonly number[], layout: RowLayout) {
  const { sequence, hidden } = layout;
  let from = 0;
  return tokensOf(lengths, layout).map((tokens, row) => {
    const place = { from, size: tokens * hidden, paddedFrom: row * sequence * hidden };
    from += place.size;
    return place;
  });
}
