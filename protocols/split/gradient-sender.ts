// Gradients on their way back through a cut, with error feedback: what the encoding loses of a text's gradient is added when
// that text comes again. Another text's loss would be no part of this one's gradient.
import type { Float32Tensor } from "../../runtime/index.ts";
import type { EncodedTensor } from "../encoding/encoded.ts";
import { encodeWithResidual } from "../encoding/residual.ts";
import type { Task } from "../task.ts";
import { type Crossing, channelAxis, encodeCrossing } from "./crossing.ts";
import { joinRows, type RowStore, rowStore, rowsOf } from "./row-store.ts";
import { packRows, rowSizes } from "./rows.ts";

/** Narrows the gradients of batches. */
export interface GradientSender {
  encode(gradient: Float32Tensor, batch: SentTexts): ReadonlyMap<string, EncodedTensor>;
}

/** The texts of a batch. */
export interface SentTexts {
  readonly lengths: readonly number[];
  /** Number of each text; absent without error feedback. */
  readonly texts?: readonly number[] | undefined;
}

/** What is owed to each text of a device, `kept` by an earlier lane; undefined in a task without error feedback. */
export function owedRows(
  task: Task,
  { layout }: Crossing,
  kept?: ReadonlyMap<number, EncodedTensor>,
): RowStore | undefined {
  const { errorFeedback, cacheBytes } = task.split;
  return errorFeedback ? rowStore({ cacheBytes, layout, encoding: "float32" }, kept) : undefined;
}

/** A sender with error feedback where `owed` is given. */
export function gradientSender(crossing: Crossing, owed: RowStore | undefined): GradientSender {
  return {
    encode: (gradient, { lengths, texts }) =>
      owed && texts
        ? encodeOwed(crossing, owed, { gradient, lengths, texts })
        : encodeCrossing(crossing, gradient, lengths),
  };
}

interface OwedBatch extends Required<SentTexts> {
  readonly gradient: Float32Tensor;
  readonly texts: readonly number[];
}

function encodeOwed(
  { name, layout, encoding, ...own }: Crossing,
  owed: RowStore,
  { gradient, lengths, texts }: OwedBatch,
): ReadonlyMap<string, EncodedTensor> {
  const sizes = rowSizes(lengths, layout);
  const debts = sizes.map((size, i) => {
    // A text that comes twice in a batch is paid once.
    const isFirst = texts.indexOf(texts[i] as number) === i;
    const debt = isFirst ? owed.get(texts[i] as number) : undefined;
    return debt?.length === size ? debt : new Float32Array(size);
  });
  const before = new Map([[name, joinRows(debts, layout.hidden)]]);
  const value = new Map([[name, packRows(gradient, lengths, layout)]]);
  const options = { ...own, axis: channelAxis };
  const { encoded, residual } = encodeWithResidual(value, before, encoding, options);
  rowsOf(residual.get(name) as Float32Tensor, sizes).forEach((row, i) => {
    const text = texts[i] as number;
    const first = texts.indexOf(text);
    const debt = first < i ? owed.get(text) : undefined;
    owed.set(text, debt?.length === row.length ? sumOf(debt, row) : row);
  });
  return encoded;
}

function sumOf(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((value, i) => value + (b[i] as number));
}
