// The training loop over a whole model: batches in, adapter out. `full` and `kd` devices, the
// coordinator's distillation, `trifold train` and the baselines all run this one loop.
import { runtimeErrors } from "../errors.ts";
import type { Float32Tensor, Parameters, TensorBundle } from "../tensor.ts";
import type { MaskKey } from "./dropout.ts";
import { adamW, clipScale, type Optimizer, squaredNorms } from "./optimizer.ts";
import type { StepResult, StepRunner } from "./steps.ts";
import { untilAborted } from "./until-aborted.ts";

/** What one run of the loop needs. */
export type TrainOptions = TrainRun & (FreshOptimizer | { readonly optimizer: Optimizer });

/** Trains a copy of `initial` with AdamW from fresh moments. */
export interface FreshOptimizer {
  readonly initial: Parameters;
  readonly weightDecay?: number;
}

/**
 * Feeds of one optimizer step: a batch, or several whose gradients are added up. The weights of several together make the
 * mean over all of their examples (`BatchShape.counted`).
 */
export type StepFeeds = TensorBundle | readonly TensorBundle[];

/** Batches and how they are learned from. */
export interface TrainRun {
  readonly step: StepRunner;
  /** Feeds of each step, made when it is their turn. */
  readonly batches: Iterable<StepFeeds> | AsyncIterable<StepFeeds>;
  /** Learning rate of a step, counted from `firstStep`. */
  readonly rateAt: (step: number) => number;
  readonly maxGradientNorm: number;
  /** What is done with a step's gradients before they are clipped; those left out leave their parameters as they are. */
  readonly adjust?: AdjustGradients;
  /** Steps that were made before this run; 0 when left out. */
  readonly firstStep?: number;
  /** What names this run's dropout masks, such as (seed, "dropout", round, device); the step counts behind it. */
  readonly maskKey?: MaskKey;
  readonly signal?: AbortSignal;
  /** Told after each step; the next one waits for what it returns. */
  readonly onStep?: (progress: StepProgress) => Promise<void> | void;
}

/** Gradients to clip and step with, from a step's gradients and the parameters at which they were taken. */
export type AdjustGradients = (gradients: Parameters, parameters: Parameters) => Parameters;

/** How far a run is. */
export interface StepProgress {
  /** Steps made, those before this run included. */
  readonly step: number;
  readonly loss: number;
  readonly flops: number;
}

/** What the loop made of it. */
export interface TrainResult {
  readonly parameters: Parameters;
  readonly steps: number;
  /** Mean loss over the steps; 0 without steps. */
  readonly meanLoss: number;
  readonly flops: number;
}

/**
 * Trains until the batches end, clipped by global norm. Rejects with `TRAINING_DIVERGED` when the loss or a gradient stops
 * being finite, and at once with the signal's reason when aborted: the step at hand is given up, and the optimizer
 * holds what the last complete step made.
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { batches, rateAt, maxGradientNorm, firstStep = 0, maskKey = [], signal } = options;
  const { adjust = (gradients) => gradients } = options;
  const optimizer =
    "optimizer" in options
      ? options.optimizer
      : adamW(options.initial, { weightDecay: options.weightDecay ?? 0 });
  let steps = 0;
  let totalLoss = 0;
  let totalFlops = 0;
  for await (const feeds of batches) {
    signal?.throwIfAborted();
    const at = firstStep + steps;
    const running = runStep(options.step, optimizer.parameters, feeds, [...maskKey, at]);
    const { loss, gradients: found, flops } = await untilAborted(running, signal);
    const gradients = adjust(found, optimizer.parameters);
    const squares = squaredNorms(gradients);
    checkFinite(at, loss, squares);
    optimizer.step(gradients, { rate: rateAt(at), scale: clipScale(squares, maxGradientNorm) });
    steps += 1;
    totalLoss += loss;
    totalFlops += flops;
    await options.onStep?.({ step: at + 1, loss, flops });
  }
  signal?.throwIfAborted();
  const meanLoss = steps ? totalLoss / steps : 0;
  return { parameters: optimizer.parameters, steps, meanLoss, flops: totalFlops };
}

/** Throws `TRAINING_DIVERGED` when a loss or a squared norm is not finite. */
export function checkFinite(
  step: number,
  loss: number,
  squares: ReadonlyMap<string, number>,
): void {
  const broken = [...squares].find(([, square]) => !Number.isFinite(square))?.[0];
  if (Number.isFinite(loss) && broken === undefined) return;
  throw runtimeErrors.error(
    "TRAINING_DIVERGED",
    `step ${step + 1}: ${broken ? `the gradient of ${broken}` : `the loss (${loss})`} is not finite`,
    { hint: "Lower the learning rate or the largest gradient norm." },
  );
}

/** Loss and gradients of one batch, or the sums over several. */
async function runStep(
  step: StepRunner,
  parameters: Parameters,
  feeds: StepFeeds,
  key: MaskKey,
): Promise<StepResult> {
  if (!isList(feeds)) return step.run(parameters, step.withMasks(feeds, key));
  const sum = { loss: 0, flops: 0, gradients: new Map<string, Float32Tensor>() };
  for (const [index, part] of feeds.entries()) {
    const masked = step.withMasks(part, [...key, index]);
    const { loss, flops, gradients } = await step.run(parameters, masked);
    sum.loss += loss;
    sum.flops += flops;
    for (const [name, gradient] of gradients) addTo(sum.gradients, name, gradient);
  }
  return sum;
}

function isList(feeds: StepFeeds): feeds is readonly TensorBundle[] {
  return Array.isArray(feeds);
}

function addTo(sums: Map<string, Float32Tensor>, name: string, { shape, data }: Float32Tensor) {
  const sum = sums.get(name)?.data;
  if (sum === undefined) sums.set(name, { dtype: "float32", shape, data });
  else for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (data[i] as number);
}
