// What `full` and `kd` devices share: a whole model on the device, trained on private data and scored on
// the hold-out.
import {
  type Engine,
  type Example,
  loadPredictor,
  loadStep,
  makeBatch,
  type Parameters,
  type Predictor,
  predictAll,
  scoreClassification,
  type TrainingStep,
  type TrainResult,
  train,
} from "../runtime/index.ts";
import { batchShape, modelSpec, rateOf, roundBatches } from "./plan.ts";
import type { ClientContext, RoundInfo, TrainReport } from "./protocol.ts";

/** A device's whole model, loaded once and used every round. */
export interface LocalModel {
  readonly step: TrainingStep;
  readonly predictor: Predictor;
  /** The round's local steps from `initial`, on the batches every framework would see. */
  train(initial: Parameters, info: RoundInfo, signal: AbortSignal): Promise<TrainResult>;
  /** Accuracy on the hold-out, 0..1, and the FLOPs it took; undefined without a hold-out. */
  score(parameters: Parameters): Promise<{ accuracy: number; flops: number } | undefined>;
  /** Logits [examples, classes]. */
  predict(parameters: Parameters, examples: readonly Example[]): Promise<Float32Array>;
  close(): Promise<void>;
}

/** Loads the step and the forward pass of the task's model. */
export async function openLocalModel(
  context: ClientContext & { engine: Engine },
): Promise<LocalModel> {
  const { task, engine, model, deviceId, train: examples, holdOut } = context;
  const spec = modelSpec(task, model);
  const shape = batchShape(task);
  const step = await loadStep(engine, spec);
  const predictor = await loadPredictor(engine, spec);
  const predict = (parameters: Parameters, texts: readonly Example[]) =>
    predictAll(predictor, parameters, texts, shape);
  return {
    step,
    predictor,
    predict,
    train: (initial, info, signal) =>
      train({
        step,
        initial,
        batches: feeds(roundBatches(task, deviceId, info.round, examples.length), examples),
        rateAt: rateOf(task, info),
        maxGradientNorm: task.training.maxGradientNorm,
        weightDecay: task.training.weightDecay,
        signal,
      }),
    score: async (parameters) => {
      if (holdOut.length === 0) return undefined;
      const logits = await predict(parameters, holdOut);
      const { accuracy } = scoreClassification(
        logits,
        holdOut.map(({ label }) => label),
      );
      return { accuracy, flops: predictor.flops * batchCount(holdOut.length, shape.batch) };
    },
    close: async () => {
      await step.close();
      await predictor.close();
    },
  };

  function* feeds(indices: readonly (readonly number[])[], texts: readonly Example[]) {
    for (const batch of indices)
      yield makeBatch(
        batch.map((i) => texts[i] as Example),
        shape,
      ).feeds;
  }
}

/** Batches that hold `examples` examples. */
export function batchCount(examples: number, batchSize: number): number {
  return Math.ceil(examples / batchSize);
}

/** The report of a round of local training. */
export function reportOf(
  context: ClientContext,
  trained: Pick<TrainResult, "steps" | "meanLoss" | "flops">,
  score: { readonly accuracy: number; readonly flops: number } | undefined,
): TrainReport {
  const { batchSize } = context.task.training;
  return {
    examples: context.train.length,
    examplesSeen: trained.steps * batchSize,
    steps: trained.steps,
    loss: trained.meanLoss,
    flops: trained.flops + (score?.flops ?? 0),
    ...(score ? { accuracy: score.accuracy } : {}),
  };
}
