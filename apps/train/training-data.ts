// A person's table as the examples of a training, with what is held out of them.
import {
  collectLabels,
  type Example,
  type HeadSettings,
  readTable,
  type TextRow,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { examplesOf, holdOut } from "../examples.ts";
import type { ModelAndTokenizer } from "../model-and-tokenizer.ts";
import type { TrainingOptions } from "./options.ts";
import { sequenceLengthOf } from "./sequence-length.ts";

/** What a training learns from. */
export interface TrainingData {
  readonly head: HeadSettings;
  /** Ordered; none for a language model. */
  readonly labels: readonly string[];
  /** Tokens a text is cut to. */
  readonly sequence: number;
  readonly train: readonly Example[];
  readonly holdOut: readonly Example[];
}

/** More classes are a column of texts or numbers. */
const maximumLabels = 1000;

/** Reads and tokenises the table. Throws `DATA_*` or `OPTION_INVALID`. */
export async function readTrainingData(
  options: TrainingOptions,
  { model, tokenizer }: ModelAndTokenizer,
): Promise<TrainingData> {
  const { data, textColumn, labelColumn, log, seed, holdOutFraction } = options;
  const isLanguage = options.head === "lm";
  const sequence = sequenceLengthOf(model, options.sequenceLength);
  const rows = await readTable(data, isLanguage ? { textColumn } : { textColumn, labelColumn });
  const labels = isLanguage ? [] : labelsOf(rows, options);
  const examples = examplesOf(rows, { tokenizer, labels, sequence });
  const usable = isLanguage ? predictable(data, examples) : examples;
  const full = usable.filter(({ tokens }) => tokens.length === sequence).length;
  const what = isLanguage ? `${usable.length} with two tokens or more` : `${labels.length} labels`;
  log(`${rows.length} rows, ${what}; ${full} texts fill or exceed ${sequence} tokens`);
  const head: HeadSettings = isLanguage
    ? { kind: "lm" }
    : { kind: "classification", classes: labels.length };
  return { head, labels, sequence, ...holdOut(usable, holdOutFraction, [seed, "train"]) };
}

function labelsOf(rows: readonly TextRow[], { data, labelColumn }: TrainingOptions) {
  const labels = collectLabels(rows);
  if (labels.length >= 2 && labels.length <= maximumLabels) return labels;
  throw appErrors.error(
    "DATA_LABELS_UNUSABLE",
    `${data}: column "${labelColumn}" holds ${labels.length} different labels, expected 2 to ${maximumLabels}`,
    { hint: "Name the column of the classes by --label-column." },
  );
}

/** Texts in which a token follows another. */
function predictable(data: string, examples: readonly Example[]): readonly Example[] {
  const usable = examples.filter(({ tokens }) => tokens.length > 1);
  if (usable.length > 0) return usable;
  throw appErrors.error("DATA_TEXTS_TOO_SHORT", `${data}: no text has two tokens`);
}
