// What `full` and `kd` devices share: a whole model on the device, trained on private data and scored on
// the hold-out. The report of a round is the same in every protocol.
import {
  type Example,
  loadPredictor,
  loadStep,
  type Parameters,
  type Predictor,
  predictAll,
  scoreClassification,
  specInMode,
  type TensorBundle,
  type TrainResult,
  train,
} from "../runtime/index.ts";
import {
  batchesOf,
  batchShape,
  drawOf,
  modelSpec,
  rateOf,
  roundBatches,
  roundMaskKey,
} from "./plan.ts";
import type { ClientContext, RoundInfo, TrainReport } from "./protocol.ts";

/** A device's whole model, loaded once and used every round. */
export interface LocalModel {
  /** The round's local steps from `initial`, on the batches every framework would see. */
  train(initial: Parameters, info: RoundInfo, signal: AbortSignal): Promise<TrainResult>;
  /** The forward pass to the logits. */
  readonly predictor: Predictor;
  /** Accuracy on the hold-out; undefined without one. */
  score(parameters: Parameters, signal: AbortSignal): Promise<Score | undefined>;
  close(): Promise<void>;
}

/** The share of the hold-out that a model gets right, and the work it took. */
export interface Score {
  /** 0..1. */
  readonly accuracy: number;
  readonly flops: number;
}

/** Loads the step and the forward pass of the task's model. */
export async function openLocalModel(context: ClientContext): Promise<LocalModel> {
  const { task, engine, model, holdOut } = context;
  const { mode = "whole-float32" } = context.assignment;
  const spec = await specInMode(modelSpec(task, model), mode);
  const shape = batchShape(task);
  const step = await loadStep(engine, spec);
  const predictor = await loadPredictor(engine, spec);
  const predict = async (
    parameters: Parameters,
    examples: readonly Example[],
    signal: AbortSignal,
  ) => {
    const source = {
      run: async (current: Parameters, feeds: TensorBundle) => {
        signal.throwIfAborted();
        const predicted = await predictor.run(current, feeds);
        // Block by block a prediction takes many runs.
        signal.throwIfAborted();
        return predicted;
      },
    };
    const logits = await predictAll(source, parameters, examples, shape);
    return { logits, flops: predictor.flops * batchCount(examples.length, shape.batch) };
  };
  return {
    predictor,
    train: (initial, info, signal) =>
      train({
        step,
        initial,
        batches: roundFeeds(context, info),
        rateAt: rateOf(task, info),
        maxGradientNorm: task.training.maxGradientNorm,
        weightDecay: task.training.weightDecay,
        maskKey: roundMaskKey(task, context.deviceId, drawOf(task, info)),
        signal,
      }),
    score: async (parameters, signal) => {
      if (holdOut.length === 0) return undefined;
      const { logits, flops } = await predict(parameters, holdOut, signal);
      return { accuracy: accuracyOf(logits, holdOut), flops };
    },
    close: async () => {
      await step.close();
      await predictor.close();
    },
  };
}

/** Share of the examples, 0..1, whose largest logit is their label's. */
export function accuracyOf(logits: Float32Array, examples: readonly Example[]): number {
  const labels = examples.map(({ label }) => label);
  return scoreClassification(logits, labels).accuracy;
}

/** Batches that hold `examples` examples. */
export function batchCount(examples: number, batchSize: number): number {
  return Math.ceil(examples / batchSize);
}

/** The report of a round of local training. */
export function reportOf(
  { task, train: examples }: ClientContext,
  trained: Pick<TrainResult, "steps" | "meanLoss" | "flops">,
  score: Score | undefined,
): TrainReport {
  return {
    examples: examples.length,
    examplesSeen: trained.steps * task.training.batchSize,
    steps: trained.steps,
    loss: trained.meanLoss,
    flops: trained.flops + (score?.flops ?? 0),
    ...(score ? { accuracy: score.accuracy } : {}),
  };
}

function* roundFeeds(
  { task, deviceId, train: examples }: ClientContext,
  info: RoundInfo,
): Iterable<TensorBundle> {
  const order = roundBatches(task, deviceId, drawOf(task, info), examples.length);
  for (const { feeds } of batchesOf(task, examples, order)) yield feeds;
}
