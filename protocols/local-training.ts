// What `full` and `kd` devices share: a whole model on the device, trained on private data and scored on
// the hold-out. The report of a round is the same in every protocol.
import {
  adamW,
  classifierScorer,
  loadPredictor,
  loadScorer,
  loadStep,
  type OptimizerState,
  type Parameters,
  type Predictor,
  type Score,
  specInMode,
  type TensorBundle,
  type TrainResult,
  train,
} from "../runtime/index.ts";
import { gradientRule } from "./gradient-rule.ts";
import { gradientSum } from "./mean-gradient.ts";
import { batchesOf, drawOf, modelSpec, rateOf, roundBatches, roundMaskKey } from "./plan.ts";
import type { ClientContext, RoundInfo, TrainReport } from "./protocol.ts";

/** A device's whole model, loaded once and used every round. */
export interface LocalModel {
  /** The round's local steps from `initial`, on the batches every framework would see. */
  train(
    initial: Parameters,
    info: RoundInfo,
    signal: AbortSignal,
    settings?: TrainSettings,
  ): Promise<TrainedModel>;
  /** The mean gradient at `parameters` over the first batches of the round, clipped as a step's is. */
  gradient(parameters: Parameters, info: RoundInfo, signal: AbortSignal): Promise<MeanGradient>;
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

/** What local steps depend on beside their start. */
export interface TrainSettings {
  /** theta_t, to which the task may draw the steps back; the start is not one where left out. */
  readonly center?: Parameters;
  /** What the optimizer goes on from; fresh moments when left out. */
  readonly moments?: OptimizerState | undefined;
}

/** The work of a round in figures. */
export type Trained = Pick<TrainResult, "steps" | "meanLoss" | "flops">;

/** A model after its local steps. */
export interface TrainedModel extends TrainResult {
  readonly moments: OptimizerState;
}

/** A mean gradient; `steps` are the batches it is of. */
export interface MeanGradient extends Trained {
  readonly gradient: Parameters;
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
    train: async (initial, info, signal, { center, moments } = {}) => {
      const { maxGradientNorm, weightDecay, localSteps } = task.training;
      const optimizer = adamW(initial, { weightDecay }, moments);
      const adjust = gradientRule(task, center);
      const run = roundRun(context, info, localSteps);
      const trained = await train({ ...run, adjust, step, optimizer, maxGradientNorm, signal });
      return { ...trained, moments: optimizer.state() };
    },
    gradient: async (parameters, info, signal) => {
      const optimizer = gradientSum(parameters);
      const run = roundRun(context, info, task.full.gradientBatches);
      // The mean is clipped, not what goes into it.
      const maxGradientNorm = Number.POSITIVE_INFINITY;
      const adjust = gradientRule(task);
      const trained = await train({ ...run, adjust, step, optimizer, maxGradientNorm, signal });
      return { ...trained, gradient: optimizer.mean(task.training.maxGradientNorm) };
    },
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

/** Batches, rates and masks of the first steps of a round. */
function roundRun(context: ClientContext, info: RoundInfo, steps: number) {
  const { task, deviceId } = context;
  return {
    batches: roundFeeds(context, info, steps),
    rateAt: rateOf(task, info),
    maskKey: roundMaskKey(task, deviceId, drawOf(task, info)),
  };
}

function* roundFeeds(
  { task, deviceId, train: examples }: ClientContext,
  info: RoundInfo,
  steps: number,
): Iterable<TensorBundle> {
  const order = roundBatches(task, deviceId, drawOf(task, info), examples.length, steps);
  for (const { feeds } of batchesOf(task, examples, order)) yield feeds;
}
