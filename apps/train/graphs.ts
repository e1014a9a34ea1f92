// Where `train`, `evaluate` and `generate` load what they compute with: every way of executing a model enters here.
import {
  bucketedStep,
  type Engine,
  type LossFunction,
  loadLoss,
  loadPredictor,
  loadPrefixCachedStep,
  loadStep,
  type ModelSpec,
  type Objective,
  type Predictor,
  type PrefixCachedStep,
  type PrefixCacheReport,
  type StepRunner,
  type TrainingStep,
  targetedModules,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";

/** A training step for batches of several lengths. */
export interface LoadedStep extends StepRunner {
  /** What each length's prefix cache did; empty without one. */
  prefixReports(): readonly PrefixCacheReport[];
  close(): Promise<void>;
}

/** Room for what leaves the frozen blocks below the first adapter. */
export interface PrefixCacheChoice {
  readonly memoryBytes: number;
  /** Folder of a file for what memory has no room for. */
  readonly folder?: string;
}

/** Of the files of all lengths together. */
const mostFolderBytes = 4 * 2 ** 30;

/** What a training step is loaded for. */
export interface StepNeeds {
  /** Tokens of the batches that occur. */
  readonly lengths: readonly number[];
  readonly objective: Objective;
  readonly prefixCache?: PrefixCacheChoice;
}

/** Loads one graph for each length that batches have. */
export async function openStep(
  engine: Engine,
  spec: ModelSpec,
  { lengths, objective, prefixCache }: StepNeeds,
): Promise<LoadedStep> {
  const steps = new Map<number, TrainingStep>();
  const cached: PrefixCachedStep[] = [];
  const folderShare = { folderBytes: Math.floor(mostFolderBytes / lengths.length) };
  for (const sequence of lengths) {
    const part = { ...spec, sequence };
    if (prefixCache === undefined) {
      steps.set(sequence, await loadStep(engine, part, { objective }));
      continue;
    }
    const share = { memoryBytes: prefixCache.memoryBytes / lengths.length, ...folderShare };
    const options = { ...prefixCache, ...share, from: firstAdapted(spec), objective };
    const step = await loadPrefixCachedStep(engine, part, options);
    cached.push(step);
    steps.set(sequence, step);
  }
  return {
    ...bucketedStep(steps),
    prefixReports: () => cached.map((step) => step.report()),
    close: async () => {
      for (const step of steps.values()) await step.close();
    },
  };
}

/** The lowest block that carries an adapter; throws `OPTION_INVALID` where no block lies below it. */
export function firstAdapted({ model, lora }: ModelSpec): number {
  const first = Math.min(...targetedModules(model.config, lora).map(({ block }) => block));
  if (first > 0) return first;
  throw appErrors.error(
    "OPTION_INVALID",
    "--cache-prefix: block 0 carries adapters, none is frozen",
    {
      hint: `Give adapters to upper blocks only, such as --layers ${model.config.layers - 1}.`,
    },
  );
}

/** Loads the forward pass to the logits of a text, or of the token behind it. */
export function openPredictor(
  engine: Engine,
  spec: ModelSpec,
  options: { readonly pooled?: boolean } = {},
): Promise<Predictor> {
  return loadPredictor(engine, spec, options);
}

/** Loads the forward pass to the loss. */
export function openLoss(engine: Engine, spec: ModelSpec): Promise<LossFunction> {
  return loadLoss(engine, spec);
}
