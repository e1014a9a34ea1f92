// Texts of a table as the examples that training sees.
import type { Task } from "../protocols/index.ts";
import {
  type Example,
  randomStream,
  type TableOptions,
  type TextRow,
  type Tokenizer,
} from "../runtime/index.ts";
import { appErrors } from "./errors.ts";

/** Columns of a table as a person names them; false where there are no labels. */
export interface DataColumns {
  readonly textColumn: string;
  readonly labelColumn: string | false;
}

/** How a task's table is read: a language model's needs no labels. Throws `OPTION_INVALID` when a classification has none. */
export function columnsOf(
  { head }: Pick<Task, "head">,
  { textColumn, labelColumn }: DataColumns,
): TableOptions {
  if (head.kind === "lm") return { textColumn };
  if (labelColumn !== false) return { textColumn, labelColumn, labels: head.labels };
  throw appErrors.error(
    "OPTION_INVALID",
    `--no-label-column: the task tells ${head.labels.length} labels apart`,
    { hint: "Give --label-column and a file with labels." },
  );
}

/** How texts become examples. */
export interface ExampleOptions {
  readonly tokenizer: Tokenizer;
  /** Ordered: the class index is the position here. */
  readonly labels: readonly string[];
  /** Tokens kept of each text. */
  readonly sequence: number;
}

/** Tokens and class of each row; rows without a label get class -1. */
export function examplesOf(
  rows: readonly TextRow[],
  { tokenizer, labels, sequence }: ExampleOptions,
): Example[] {
  const classes = new Map(labels.map((label, i) => [label, i]));
  return rows.map(({ text, label }) => ({
    tokens: tokenizer.encode(text).slice(0, sequence),
    label: label === undefined ? -1 : (classes.get(label) ?? -1),
  }));
}

/** Puts a fraction of the examples aside, the same ones for the same key. */
export function holdOut<T>(
  examples: readonly T[],
  fraction: number,
  key: readonly (string | number)[],
): { readonly train: readonly T[]; readonly holdOut: readonly T[] } {
  const shuffled = randomStream(...key, "hold-out").shuffle(examples);
  const aside = Math.floor(examples.length * fraction);
  return { train: shuffled.slice(aside), holdOut: shuffled.slice(0, aside) };
}
