// The rows that logits of public texts have: one for each text of a classification task, one for each token of a
// language model that has a next one. Batches are the task's own.
import {
  type Example,
  makeBatch,
  type Parameters,
  type Predictor,
  type TensorBundle,
} from "../../runtime/index.ts";
import { batchShape, headOf } from "../plan.ts";
import type { Task } from "../task.ts";

/** The round's texts and where their rows are. */
export interface PublicRows {
  readonly texts: readonly Example[];
  readonly classes: number;
  readonly rows: number;
  /** The first row of each text, [texts + 1]. */
  readonly starts: Uint32Array;
  /** Rows of logits that a graph gives for each text of a batch, padding among them. */
  readonly stride: number;
}

/** Some texts as one batch, and what a model makes of it. */
export interface RowBatch {
  /** Places in `texts`, at most a batch. */
  readonly indices: readonly number[];
  /** [batch * stride, classes] */
  readonly logits: Float32Array;
}

/** The rows of these texts. */
export function publicRows(task: Task, texts: readonly Example[]): PublicRows {
  const head = headOf(task);
  const { sequenceLength } = task.training;
  const isLanguage = head.kind === "lm";
  const starts = new Uint32Array(texts.length + 1);
  texts.forEach(({ tokens }, i) => {
    const count = isLanguage ? Math.max(0, Math.min(tokens.length, sequenceLength) - 1) : 1;
    starts[i + 1] = (starts[i] as number) + count;
  });
  return {
    texts,
    classes: isLanguage ? task.manifest.config.vocabSize : head.classes,
    rows: starts[texts.length] as number,
    starts,
    stride: isLanguage ? sequenceLength : 1,
  };
}

/** The feeds of some of the texts. */
export function rowFeeds(
  task: Task,
  { texts }: PublicRows,
  indices: readonly number[],
): TensorBundle {
  const chosen = indices.map((i) => texts[i] as Example);
  return makeBatch(chosen, batchShape(task)).feeds;
}

/** All texts in their order, batch by batch; rejects with the signal's reason between batches. */
export async function* predictRows(
  task: Task,
  rows: PublicRows,
  { predictor, parameters, signal }: Prediction,
): AsyncIterable<RowBatch> {
  const { batchSize } = task.training;
  for (let start = 0; start < rows.texts.length; start += batchSize) {
    signal?.throwIfAborted();
    const length = Math.min(batchSize, rows.texts.length - start);
    const indices = Array.from({ length }, (_, i) => start + i);
    const { data } = await predictor.run(parameters, rowFeeds(task, rows, indices));
    // Block by block a prediction takes many runs.
    signal?.throwIfAborted();
    yield { indices, logits: data };
  }
}

/** What predicts. */
export interface Prediction {
  readonly predictor: Pick<Predictor, "run">;
  readonly parameters: Parameters;
  readonly signal?: AbortSignal | undefined;
}

/** Calls `visit` with each real row of a batch: its number among all rows, and its place in the batch's logits. */
export function eachRow(
  { starts, stride }: PublicRows,
  indices: readonly number[],
  visit: (row: number, place: number) => void,
): void {
  indices.forEach((index, i) => {
    const first = starts[index] as number;
    const count = (starts[index + 1] as number) - first;
    for (let j = 0; j < count; j++) visit(first + j, i * stride + j);
  });
}
