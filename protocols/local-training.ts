// What `full` and `kd` devices share: a whole model on the device, trained on private data and scored on
// the hold-out. The report of a round is the same in every protocol.
import {
  classifierScorer,
  loadPredictor,
  loadScorer,
  loadStep,
  type Parameters,
  type Predictor,
  type Score,
  specInMode,
  type TensorBundle,
  type TrainResult,
  train,
} from "../runtime/index.ts";
import { batchesOf, modelSpec, rateOf, roundBatches, roundMaskKey } from "./plan.ts";
import type { ClientContext, RoundInfo, TrainReport } from "./protocol.ts";

/** A device's whole model, loaded once and used every round. */
export interface LocalModel {
  /** The round's local steps from `initial`, on the batches every framework would see. */
  train(initial: Parameters, info: RoundInfo, signal: AbortSignal): Promise<TrainResult>;
  /** The forward pass to a classifier's logits; undefined for a language model, which is scored by its loss. */
  readonly predictor: Predictor | undefined;
  /** What the model is worth on the hold-out; undefined without one. */
  score(parameters: Parameters, signal: AbortSignal): Promise<HoldOutScore | undefined>;
  close(): Promise<void>;
}

/** What a model is worth on the hold-out, and the work it took to tell. */
export interface HoldOutScore {
  readonly score: Score;
  readonly flops: number;
}

/** Loads the step and the forward pass of the task's model. */
export async function openLocalModel(context: ClientContext): Promise<LocalModel> {
  const { task, engine, model, holdOut } = context;
  const { mode = "whole-float32" } = context.assignment;
  const spec = await specInMode(modelSpec(task, model), mode);
  const step = await loadStep(engine, spec);
  const predictor = spec.head.kind === "lm" ? undefined : await loadPredictor(engine, spec);
  const scorer = predictor ? classifierScorer(predictor, spec) : await loadScorer(engine, spec);
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
        maskKey: roundMaskKey(task, context.deviceId, info.round),
        signal,
      }),
    score: async (parameters, signal) => {
      if (holdOut.length === 0) return undefined;
      const score = await scorer.run(parameters, holdOut, signal);
      signal.throwIfAborted();
      return { score, flops: scorer.flopsOf(holdOut.length) };
    },
    close: async () => {
      await step.close();
      await scorer.close();
    },
  };
}

/** Batches that hold `examples` examples. */
export function batchCount(examples: number, batchSize: number): number {
  return Math.ceil(examples / batchSize);
}

/** The report of a round of local training. */
export function reportOf(
  { task, train: examples }: ClientContext,
  trained: Pick<TrainResult, "steps" | "meanLoss" | "flops">,
  scored: HoldOutScore | undefined,
): TrainReport {
  return {
    examples: examples.length,
    examplesSeen: trained.steps * task.training.batchSize,
    steps: trained.steps,
    loss: trained.meanLoss,
    flops: trained.flops + (scored?.flops ?? 0),
    ...scored?.score,
  };
}

function* roundFeeds(
  { task, deviceId, train: examples }: ClientContext,
  { round }: RoundInfo,
): Iterable<TensorBundle> {
  const order = roundBatches(task, deviceId, round, examples.length);
  for (const { feeds } of batchesOf(task, examples, order)) yield feeds;
}
