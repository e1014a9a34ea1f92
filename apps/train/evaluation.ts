// `trifold evaluate`: what a model with an adapter is worth on a table.
import {
  type Adapter,
  type BaseModel,
  checkAdapterFits,
  collectLabels,
  type Engine,
  loadAdapter,
  loadPredictor,
  type ModelSpec,
  ortEngine,
  type ProviderName,
  predictAll,
  readTable,
  scoreClassification,
  type Tokenizer,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { examplesOf } from "../examples.ts";
import { openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { measurePerplexity, type PerplexityScore } from "./perplexity.ts";
import { sequenceLengthOf } from "./sequence-length.ts";

/** What to evaluate. */
export interface EvaluationOptions {
  readonly model: string;
  /** Adapter folder in the PEFT format, Trifold's or PEFT's own. */
  readonly adapter: string;
  readonly data: string;
  readonly textColumn: string;
  readonly labelColumn: string;
  readonly batchSize: number;
  readonly sequenceLength?: number;
  readonly threads?: number;
  /** Execution providers, best first; the CPU when left out. */
  readonly providers?: readonly ProviderName[];
  readonly cacheFolder: string;
  readonly log: (message: string) => void;
}

/** Of a classifier. */
export interface AccuracyScore {
  readonly examples: number;
  /** 0..1. */
  readonly accuracy: number;
  readonly macroF1: number;
}

/** Scores an adapter: accuracy of a classifier, perplexity of a language model. Throws `ADAPTER_INVALID`, `DATA_*` or `MODEL_*`. */
export async function evaluateAdapter(
  options: EvaluationOptions,
): Promise<AccuracyScore | PerplexityScore> {
  const { batchSize, cacheFolder, log, threads, providers } = options;
  const { model, tokenizer } = await openModelAndTokenizer(options.model, cacheFolder);
  const adapter = await loadAdapter(options.adapter);
  checkAdapterFits(adapter, model.config);
  if (adapter.baseModelSha256 !== undefined && adapter.baseModelSha256 !== model.sha256) {
    log(`note: the adapter was trained on another base model than ${options.model}`);
  }
  const sequence = sequenceLengthOf(model, options.sequenceLength);
  const { lora, head } = adapter;
  const spec: ModelSpec = { model, lora, head, batch: batchSize, sequence };
  const engine = ortEngine({ ...(threads && { threads }), ...(providers && { providers }) });
  try {
    return head.kind === "lm"
      ? await scoreTexts(options, { engine, spec, adapter, tokenizer })
      : await scoreLabels(options, { engine, spec, adapter, tokenizer });
  } finally {
    await engine.close();
  }
}

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
  const predictor = await loadPredictor(engine, spec);
  const shape = { ...sizesOf(spec), padTokenId: padOf(spec.model) };
  const logits = await predictAll(predictor, adapter.parameters, examples, shape);
  const score = scoreClassification(
    logits,
    examples.map(({ label }) => label),
  );
  return { examples: score.examples, accuracy: score.accuracy, macroF1: score.macroF1 };
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
): Promise<PerplexityScore> {
  const rows = await readTable(data, { textColumn });
  const { sequence } = spec;
  const examples = examplesOf(rows, { tokenizer, labels: [], sequence });
  return await measurePerplexity(engine, spec, adapter.parameters, examples);
}

function sizesOf({ batch, sequence }: ModelSpec) {
  return { batch, sequence };
}

function padOf({ config }: BaseModel): number {
  return config.padTokenId;
}
