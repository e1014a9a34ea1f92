// Which rows of a batch travel, and how: the device's end of temporal reuse.
import type { Float32Tensor } from "../../runtime/index.ts";
import type { EncodedTensor, EncodingName } from "../encoding/encoded.ts";
import { encodeTensor } from "../encoding/index.ts";
import { channelAxis } from "./crossing.ts";
import { type RowMemory, type RowMessage, receiveRows, rowModes } from "./reuse.ts";
import { joinRows, rowsOf } from "./row-store.ts";
import { packRows, type RowLayout, rowSizes } from "./rows.ts";
import { largestPart, nonZeroShare } from "./sparse-change.ts";

/** How rows are sent. */
export interface RowSenderOptions {
  readonly memory: RowMemory;
  readonly layout: RowLayout;
  /** A row that moved no further, relative to its norm, stays at home. */
  readonly threshold: number;
  /** How whole rows are narrowed. */
  readonly encoding: EncodingName;
  /** Share of each channel's values that int8 sends apart. */
  readonly outliers: number;
  /** How changes are narrowed; `topk` sends as many values as bring a row within the threshold. */
  readonly changes: EncodingName;
}

/** The message of a batch, which the device's own memory has taken by then. */
export function sendRows(
  options: RowSenderOptions,
  activations: Float32Tensor,
  { lengths, texts }: Pick<RowMessage, "lengths" | "texts">,
): RowMessage {
  const { memory, layout, encoding, changes, outliers, threshold } = options;
  const rows = rowsOf(packRows(activations, lengths, layout), rowSizes(lengths, layout));
  const modes = chooseModes(options, rows, texts);
  const ofMode = (mode: number) =>
    rows.flatMap((row, i) => (modes[i] === mode ? [{ row, i }] : []));
  const whole = ofMode(rowModes.whole).map(({ row }) => row);
  const changed = ofMode(rowModes.change).map(({ row, i }) => {
    const known = memory.store.get(texts[i] as number) as Float32Array;
    const change = row.map((value, place) => value - (known[place] as number));
    return changes === "topk" ? largestPart(change, threshold * norm(row)) : change;
  });
  const parts: readonly (readonly [string, readonly Float32Array[], EncodingName])[] = [
    ["activations", whole, encoding],
    ["changes", changed, changes],
  ];
  const tensors = new Map<string, EncodedTensor>();
  for (const [name, sent, narrowed] of parts) {
    if (sent.length === 0) continue;
    const joined = joinRows(sent, layout.hidden);
    const kept = narrowed === "topk" ? { keepFraction: nonZeroShare(joined.data) } : {};
    const settings = { name, outliers, axis: channelAxis, ...kept };
    tensors.set(name, encodeTensor(joined, narrowed, settings));
  }
  const message = { lengths, texts, modes, tensors };
  receiveRows(memory, layout, message).keep();
  return message;
}

/** L2, in float64. */
function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

/** A text that comes twice in a batch travels once, unless dropout makes it another. */
function chooseModes(
  { memory, threshold }: RowSenderOptions,
  rows: readonly Float32Array[],
  texts: readonly number[],
): number[] {
  return rows.map((row, i) => {
    const text = texts[i] as number;
    const first = texts.indexOf(text);
    if (first < i) {
      const change = relativeChange(row, rows[first] as Float32Array);
      return change <= threshold ? rowModes.kept : rowModes.whole;
    }
    const known = memory.store.get(text);
    if (known?.length !== row.length) return rowModes.whole;
    const change = relativeChange(row, known);
    if (change <= threshold) return rowModes.kept;
    return change <= largestChange ? rowModes.change : rowModes.whole;
  });
}

/** |now - sent| / |now|, in float64. */
function relativeChange(now: Float32Array, sent: Float32Array): number {
  let moved = 0;
  let size = 0;
  for (let i = 0; i < now.length; i++) {
    const value = now[i] as number;
    const distance = value - (sent[i] as number);
    moved += distance * distance;
    size += value * value;
  }
  return size === 0 ? (moved === 0 ? 0 : Number.POSITIVE_INFINITY) : Math.sqrt(moved / size);
}

/** Beyond it a change has about the size of the row, and four bits of it would err more than the row's own encoding. */
const largestChange = 0.5;
