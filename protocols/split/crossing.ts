// What crosses a cut: a batch's real tokens, narrowed. int8 has a scale for each channel, for activations have outlier
// channels.
import type { Float32Tensor } from "../../runtime/index.ts";
import type { EncodedTensor, EncodingName } from "../encoding/encoded.ts";
import { encodedByteLength, encodeTensor } from "../encoding/index.ts";
import { decodeOnly } from "../payload.ts";
import type { Task } from "../task.ts";
import type { Cuts } from "./cut.ts";
import {
  cutLayout,
  middleLayout,
  packedShape,
  packRows,
  type RowLayout,
  unpackRows,
} from "./rows.ts";

/** A tensor that crosses a cut in every step. */
export interface Crossing {
  readonly name: "activations" | "states" | "gradient";
  readonly layout: RowLayout;
  readonly encoding: EncodingName;
  /** Of topk. */
  readonly keepFraction: number;
  /** Of int8. */
  readonly outliers: number;
}

/** Everything that crosses the cuts of a device. */
export interface Crossings {
  /** Up: what leaves the front. */
  readonly activations: Crossing;
  /** Down: the gradient there. */
  readonly cutGradient: Crossing;
  /** Down, U-shape only: what leaves the middle. */
  readonly states: Crossing;
  /** Up, U-shape only: the gradient there. */
  readonly statesGradient: Crossing;
}

/** The crossings of a task's cuts. */
export function crossingsOf(task: Task, cuts: Cuts): Crossings {
  const { activations, gradients, keepFraction, outliers } = task.split;
  const front = cutLayout(task);
  const middle = middleLayout(task, cuts);
  const state = { encoding: activations, keepFraction, outliers };
  const gradient = { name: "gradient", encoding: gradients, keepFraction, outliers } as const;
  return {
    activations: { name: "activations", layout: front, ...state },
    cutGradient: { ...gradient, layout: front },
    states: { name: "states", layout: middle, ...state },
    statesGradient: { ...gradient, layout: middle },
  };
}

/** Narrows a padded batch [batch * sequence, hidden]. */
export function encodeCrossing(
  { name, layout, encoding, ...own }: Crossing,
  padded: Float32Tensor,
  lengths: readonly number[],
): ReadonlyMap<string, EncodedTensor> {
  const packed = packRows(padded, lengths, layout);
  return new Map([[name, encodeTensor(packed, encoding, { ...own, name, axis: channelAxis })]]);
}

/** The padded batch of a foreign message, which must have exactly this tensor; throws as `decodeOnly` does. */
export function decodeCrossing(
  { name, layout }: Crossing,
  tensors: ReadonlyMap<string, EncodedTensor>,
  lengths: readonly number[],
): Float32Tensor {
  const packed = decodeOnly(tensors, name, packedShape(lengths, layout));
  return unpackRows(packed, lengths, layout);
}

/** Bytes of `texts` texts of `tokens` tokens on their way. */
export function crossingBytes(
  { layout, encoding, keepFraction, outliers }: Crossing,
  texts: number,
  tokens: number,
): number {
  const rows = Math.round(texts * Math.min(tokens, layout.sequence));
  return encodedByteLength([rows, layout.hidden], encoding, {
    keepFraction,
    outliers,
    axis: channelAxis,
  });
}

/** Rows are [tokens, hidden]: each channel of them has an int8 scale. */
export const channelAxis = 1;
