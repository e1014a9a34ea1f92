// Where `train`, `evaluate` and `generate` load what they compute with: every way of executing a model enters here.
import {
  bucketedStep,
  type Engine,
  type LossFunction,
  loadLoss,
  loadPredictor,
  loadStep,
  type ModelSpec,
  type Objective,
  type Predictor,
  type StepRunner,
  type TrainingStep,
} from "../../runtime/index.ts";

/** A training step for batches of several lengths. */
export interface LoadedStep extends StepRunner {
  close(): Promise<void>;
}

/** Loads one graph for each length that batches have. */
export async function openStep(
  engine: Engine,
  spec: ModelSpec,
  { lengths, objective }: { readonly lengths: readonly number[]; readonly objective: Objective },
): Promise<LoadedStep> {
  const steps = new Map<number, TrainingStep>();
  for (const sequence of lengths) {
    steps.set(sequence, await loadStep(engine, { ...spec, sequence }, { objective }));
  }
  return {
    ...bucketedStep(steps),
    close: async () => {
      for (const step of steps.values()) await step.close();
    },
  };
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
