// Evaluation: logits of many examples and what they are worth.
import type { Parameters, TensorBundle } from "../tensor.ts";
import { type BatchShape, type Example, makeBatch } from "./batches.ts";

/** Anything that turns a batch into logits [batch, classes]: a whole model, or a cut one across the wire. */
export interface LogitsSource {
  run(
    parameters: Parameters,
    feeds: TensorBundle,
  ): Promise<{ readonly shape: readonly number[]; readonly data: Float32Array }>;
}

/** Logits [examples, classes] of every example, in order. */
export async function predictAll(
  source: LogitsSource,
  parameters: Parameters,
  examples: readonly Example[],
  shape: BatchShape,
): Promise<Float32Array> {
  const parts: Float32Array[] = [];
  for (let start = 0; start < examples.length; start += shape.batch) {
    const batch = makeBatch(examples.slice(start, start + shape.batch), shape);
    const logits = await source.run(parameters, batch.feeds);
    const classes = logits.shape[1] as number;
    parts.push(logits.data.subarray(0, batch.size * classes));
  }
  const total = parts.reduce((sum, part) => sum + part.length, 0);
  const all = new Float32Array(total);
  let offset = 0;
  for (const part of parts) {
    all.set(part, offset);
    offset += part.length;
  }
  return all;
}

/** What a classifier got right. */
export interface ClassificationScore {
  readonly examples: number;
  /** 0..1. */
  readonly accuracy: number;
  /** Mean over the classes of the harmonic mean of precision and recall, 0..1; absent classes count 0. */
  readonly macroF1: number;
  /** How many examples of a class (row) were taken for a class (column). */
  readonly confusion: readonly (readonly number[])[];
}

/** Scores logits [examples, classes] against labels; the first of equal logits wins. */
export function scoreClassification(
  logits: Float32Array,
  labels: readonly number[],
): ClassificationScore {
  const classes = labels.length === 0 ? 0 : logits.length / labels.length;
  const confusion = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  labels.forEach((label, example) => {
    const guess = largest(logits.subarray(example * classes, (example + 1) * classes));
    const row = confusion[label] as number[];
    row[guess] = (row[guess] as number) + 1;
  });
  const hits = confusion.map((row, i) => row[i] as number);
  const predicted = hits.map((_, i) => sum(confusion.map((row) => row[i] as number)));
  const f1 = hits.map((hit, i) =>
    hit === 0 ? 0 : (2 * hit) / ((predicted[i] as number) + sum(confusion[i] as number[])),
  );
  return {
    examples: labels.length,
    accuracy: labels.length === 0 ? 0 : sum(hits) / labels.length,
    macroF1: classes === 0 ? 0 : sum(f1) / classes,
    confusion,
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function largest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++)
    if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}
