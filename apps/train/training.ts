// `trifold train`: a person's table, one machine, one adapter. The centralised counterpart of a federation.
import { basename, resolve } from "node:path";
import {
  type Adapter,
  type Batch,
  batchIndices,
  type ClassificationScore,
  collectLabels,
  type Example,
  type HeadSettings,
  initialParameters,
  type LoraSettings,
  linearRate,
  loadPredictor,
  loadStep,
  type ModelSpec,
  makeBatch,
  ortEngine,
  type Parameters,
  predictAll,
  readTable,
  saveAdapter,
  scoreClassification,
  type TrainingStep,
  train,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { examplesOf, holdOut } from "../examples.ts";
import { type ModelAndTokenizer, openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { sequenceLengthOf } from "./sequence-length.ts";

/** What to train, on what and how. */
export interface TrainingOptions {
  readonly model: string;
  readonly data: string;
  readonly textColumn: string;
  readonly labelColumn: string;
  readonly lora: LoraSettings;
  /** Optimizer steps; `epochs` counts when left out. */
  readonly steps?: number;
  readonly epochs: number;
  readonly batchSize: number;
  readonly sequenceLength?: number;
  readonly learningRate: number;
  readonly seed: number;
  /** Share of the rows that is only scored on, 0 to below 1. */
  readonly holdOutFraction: number;
  /** Folder of the adapter. */
  readonly out: string;
  readonly threads?: number;
  readonly cacheFolder: string;
  /** Ends training at once; what is trained before the step at hand is saved. */
  readonly signal: AbortSignal;
  readonly log: (message: string) => void;
  /** Told the number of steps when it is known; what it gives is told of each step. */
  readonly onStart: (steps: number) => (step: StepReport) => void;
}

/** How far training is. */
export interface StepReport {
  readonly step: number;
  readonly loss: number;
  /** Examples seen, repeats counted. */
  readonly examples: number;
}

/** What training made. */
export interface TrainingReport {
  readonly adapter: string;
  readonly labels: readonly string[];
  readonly trainExamples: number;
  readonly holdOutExamples: number;
  readonly steps: number;
  /** Mean loss of all steps. */
  readonly loss: number;
  /** On the hold-out; absent without one and after Ctrl-C. */
  readonly accuracy?: number;
  readonly macroF1?: number;
  /** Share of the hold-out's largest class: what guessing would reach. */
  readonly majority?: number;
  readonly seconds: number;
  readonly flops: number;
  /** Whether it ended before its last step. */
  readonly interrupted: boolean;
}

/** Trains an adapter and saves it. Throws `DATA_*`, `MODEL_*`, `TRAINING_DIVERGED`, or the signal's reason before the first step. */
export async function trainAdapter(options: TrainingOptions): Promise<TrainingReport> {
  const { cacheFolder, threads, signal } = options;
  const opened = await openModelAndTokenizer(options.model, cacheFolder);
  const { labels, examples, sequence } = await readExamples(options, opened);
  const { seed, holdOutFraction } = options;
  const parts = holdOut(examples, holdOutFraction, [seed, "train"]);
  const head: HeadSettings = { kind: "classification", classes: labels.length };
  const { model } = opened;
  const spec: ModelSpec = { model, lora: options.lora, head, batch: options.batchSize, sequence };
  const engine = ortEngine(threads === undefined ? { signal } : { threads, signal });
  try {
    signal.throwIfAborted();
    const startMs = performance.now();
    const step = await loadStep(engine, spec);
    const result = await runSteps(options, spec, step, parts.train);
    await step.close();
    const seconds = (performance.now() - startMs) / 1000;
    if (result.steps === 0) throw signal.reason;
    await saveAdapter(options.out, adapterOf(options, spec, labels, result.parameters));
    const score = signal.aborted
      ? undefined
      : await scoreOn(parts.holdOut, spec, result.parameters, () => loadPredictor(engine, spec));
    return {
      adapter: options.out,
      labels,
      trainExamples: parts.train.length,
      holdOutExamples: parts.holdOut.length,
      steps: result.steps,
      loss: result.meanLoss,
      ...score,
      seconds,
      flops: result.flops,
      interrupted: signal.aborted,
    };
  } finally {
    await engine.close();
  }
}

/** More classes are a column of texts or numbers. */
const maximumLabels = 1000;

async function readExamples(
  options: TrainingOptions,
  { model, tokenizer }: ModelAndTokenizer,
): Promise<{ labels: readonly string[]; examples: readonly Example[]; sequence: number }> {
  const { data, textColumn, labelColumn, log } = options;
  const sequence = sequenceLengthOf(model, options.sequenceLength);
  const rows = await readTable(data, { textColumn, labelColumn });
  const labels = collectLabels(rows);
  if (labels.length < 2 || labels.length > maximumLabels) {
    throw appErrors.error(
      "DATA_LABELS_UNUSABLE",
      `${data}: column "${labelColumn}" holds ${labels.length} different labels, expected 2 to ${maximumLabels}`,
      { hint: "Name the column of the classes by --label-column." },
    );
  }
  const examples = examplesOf(rows, { tokenizer, labels, sequence });
  const full = examples.filter(({ tokens }) => tokens.length === sequence).length;
  log(
    `${rows.length} rows, ${labels.length} labels; ${full} texts fill or exceed ${sequence} tokens`,
  );
  return { labels, examples, sequence };
}

async function runSteps(
  options: TrainingOptions,
  { model, lora, head, batch, sequence }: ModelSpec,
  step: TrainingStep,
  examples: readonly Example[],
) {
  const { seed, learningRate, signal } = options;
  const planned = options.steps ?? Math.ceil((options.epochs * examples.length) / batch);
  const order = batchIndices(examples.length, batch, planned, [seed, "train"]);
  const shape = { batch, sequence, padTokenId: model.config.padTokenId };
  const batches = function* (): Iterable<Batch["feeds"]> {
    for (const indices of order) {
      // Ends the loop instead of failing it, so that what is trained is there to save.
      if (signal.aborted) return;
      yield makeBatch(
        indices.map((i) => examples[i] as Example),
        shape,
      ).feeds;
    }
  };
  const onStep = options.onStart(planned);
  const schedule = { rate: learningRate, finalFraction: 0.1, totalSteps: planned };
  return await train({
    step,
    initial: initialParameters(model.config, lora, head, seed),
    batches: batches(),
    rateAt: (index) => linearRate(index, schedule),
    maxGradientNorm: 1,
    stop: signal,
    onStep: (progress) => onStep({ ...progress, examples: progress.step * batch }),
  });
}

function adapterOf(
  { model: folder }: TrainingOptions,
  { model, lora, head }: ModelSpec,
  labels: readonly string[],
  parameters: Parameters,
): Adapter {
  // The folder's name says which model it was; where it lay on this machine is nobody's concern.
  const baseModelName = basename(resolve(folder));
  return { lora, head, labels, parameters, baseModelName, baseModelSha256: model.sha256 };
}

type Score = Pick<ClassificationScore, "accuracy" | "macroF1"> & { readonly majority: number };

async function scoreOn(
  examples: readonly Example[],
  { model, batch, sequence }: ModelSpec,
  parameters: Parameters,
  load: () => ReturnType<typeof loadPredictor>,
): Promise<Score | undefined> {
  if (examples.length === 0) return undefined;
  const predictor = await load();
  const shape = { batch, sequence, padTokenId: model.config.padTokenId };
  const logits = await predictAll(predictor, parameters, examples, shape);
  const labels = examples.map(({ label }) => label);
  const { accuracy, macroF1 } = scoreClassification(logits, labels);
  return { accuracy, macroF1, majority: majorityShare(labels) };
}

/** Share of the most frequent label. */
export function majorityShare(labels: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return Math.max(0, ...counts.values()) / Math.max(1, labels.length);
}
