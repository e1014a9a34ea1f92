// `trifold evaluate`: what a model is worth on a table, with an adapter or, as a language model, without one.
import {
  type Adapter,
  type BaseModel,
  checkAdapterFits,
  collectLabels,
  type Engine,
  type LanguageScore,
  loadAdapter,
  type ModelSpec,
  ortEngine,
  type ProviderName,
  readTable,
  scoreClassification,
  type Tokenizer,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { examplesOf } from "../examples.ts";
import { chooseExecution, type ExecutionChoice } from "../execution.ts";
import { openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { measurePerplexity } from "./perplexity.ts";
import { logitsOf } from "./scoring.ts";
import { sequenceLengthOf } from "./sequence-length.ts";

/** What to evaluate. */
export interface EvaluationOptions {
  readonly model: string;
  /** Adapter folder in the PEFT format, Trifold's or PEFT's own; the bare language model when left out. */
  readonly adapter?: string;
  readonly data: string;
  readonly textColumn: string;
  readonly labelColumn: string;
  readonly batchSize: number;
  readonly sequenceLength?: number;
  readonly threads?: number;
  /** Execution providers, best first; the CPU when left out. */
  readonly providers?: readonly ProviderName[];
  readonly execution?: ExecutionChoice;
  readonly cacheFolder: string;
  readonly log: (message: string) => void;
}

/** Of a classifier. */
export interface AccuracyScore {
  readonly examples: number;
  /** 0..1. */
  readonly accuracy: number;
  readonly macroF1: number;
  /** How many examples of a label (row) were taken for a label (column), in the order of `labels`. */
  readonly confusion: readonly (readonly number[])[];
  readonly labels: readonly string[];
}

/** Scores a model: accuracy of a classifier, perplexity of a language model. Throws `ADAPTER_INVALID`, `DATA_*` or `MODEL_*`. */
export async function evaluateAdapter(
  options: EvaluationOptions,
): Promise<AccuracyScore | LanguageScore> {
  const { batchSize: batch, cacheFolder, threads, providers } = options;
  const { model, tokenizer } = await openModelAndTokenizer(options.model, cacheFolder);
  const adapter = await openAdapter(options.adapter, model, options.log);
  const sequence = sequenceLengthOf(model, options.sequenceLength);
  const { lora, head } = adapter;
  const workloads = [{ kind: head.kind === "lm" ? "loss" : "logits" }] as const;
  const plain = { model, lora, head, batch, sequence };
  const { execution = {}, log } = options;
  const { spec } = await chooseExecution(plain, workloads, execution, log);
  const engine = ortEngine({ ...(threads && { threads }), ...(providers && { providers }) });
  try {
    return head.kind === "lm"
      ? await scoreTexts(options, { engine, spec, adapter, tokenizer })
      : await scoreLabels(options, { engine, spec, adapter, tokenizer });
  } finally {
    await engine.close();
  }
}

/** The adapter of a folder, or one that changes nothing; `log` is told when it was made for another model. */
export async function openAdapter(
  folder: string | undefined,
  model: BaseModel,
  log: (message: string) => void,
): Promise<Adapter> {
  if (folder === undefined) return bareLanguageModel;
  const adapter = await loadAdapter(folder);
  checkAdapterFits(adapter, model.config);
  if (adapter.baseModelSha256 !== undefined && adapter.baseModelSha256 !== model.sha256) {
    log(`note: the adapter was trained on another base model than the one given`);
  }
  return adapter;
}

const bareLanguageModel: Adapter = {
  lora: { rank: 1, alpha: 1, targets: [] },
  head: { kind: "lm" },
  parameters: new Map(),
  baseModelName: "",
};

interface Opened {
  readonly engine: Engine;
  readonly spec: ModelSpec;
  readonly adapter: Adapter;
  readonly tokenizer: Tokenizer;
}

async function scoreLabels(
  { data, textColumn, labelColumn }: EvaluationOptions,
  { engine, spec, adapter, tokenizer }: Opened,
): Promise<AccuracyScore> {
  const known = adapter.labels;
  const table = { textColumn, labelColumn, ...(known === undefined ? {} : { labels: known }) };
  const rows = await readTable(data, table);
  const labels = known ?? labelsByCount(data, collectLabels(rows), adapter);
  const { sequence } = spec;
  const examples = examplesOf(rows, { tokenizer, labels, sequence });
  const logits = await logitsOf({ engine, spec, parameters: adapter.parameters, examples });
  const score = scoreClassification(
    logits,
    examples.map(({ label }) => label),
  );
  return { ...score, labels };
}

/** Adapters that PEFT made carry no labels; the sorted ones of the table serve when they are as many. */
function labelsByCount(data: string, labels: readonly string[], { head }: Adapter) {
  const classes = head.kind === "classification" ? head.classes : 0;
  if (labels.length === classes) return labels;
  throw appErrors.error(
    "DATA_LABELS_UNUSABLE",
    `${data}: ${labels.length} different labels, the adapter's head has ${classes} classes and names none`,
    {
      hint: 'Add {"format": 1, "labels": [...]} in the order of the classes as trifold.json to the adapter.',
    },
  );
}

async function scoreTexts(
  { data, textColumn }: EvaluationOptions,
  { engine, spec, adapter, tokenizer }: Opened,
): Promise<LanguageScore> {
  const rows = await readTable(data, { textColumn });
  const { sequence } = spec;
  const examples = examplesOf(rows, { tokenizer, labels: [], sequence });
  return await measurePerplexity(engine, spec, adapter.parameters, examples);
}
