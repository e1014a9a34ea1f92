// The training loop over a whole model: batches in, adapter out. `full` and `kd` devices, the
// coordinator's distillation, `trifold train` and the baselines all run this one loop.
import { runtimeErrors } from "../errors.ts";
import type { Parameters, TensorBundle } from "../tensor.ts";
import { adamW, clipScale, squaredNorms } from "./optimizer.ts";
import type { TrainingStep } from "./steps.ts";

/** What one run of the loop needs. */
export interface TrainOptions {
  readonly step: TrainingStep;
  readonly initial: Parameters;
  /** Feeds of each step, made when it is their turn. */
  readonly batches: Iterable<TensorBundle>;
  /** Learning rate of the n-th step of this run, from 0. */
  readonly rateAt: (step: number) => number;
  readonly maxGradientNorm: number;
  readonly weightDecay?: number;
  readonly signal?: AbortSignal;
  /** Ends the run early without failing it: a step that the engine gives up for it is left out of the result. */
  readonly stop?: AbortSignal;
  /** Told after each step. */
  readonly onStep?: (progress: { readonly step: number; readonly loss: number }) => void;
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
 * Trains with AdamW from fresh moments, clipped by global norm. Rejects with the signal's reason when
 * aborted and with `TRAINING_DIVERGED` when the loss or a gradient stops being finite.
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const {
    step,
    initial,
    batches,
    rateAt,
    maxGradientNorm,
    weightDecay = 0,
    signal,
    stop,
    onStep,
  } = options;
  const optimizer = adamW(initial, { weightDecay });
  let steps = 0;
  let total = 0;
  for (const feeds of batches) {
    signal?.throwIfAborted();
    const result = await unlessStopped(step.run(optimizer.parameters, feeds), stop);
    if (result === undefined) break;
    const { loss, gradients } = result;
    const squares = squaredNorms(gradients);
    checkFinite(steps, loss, squares);
    optimizer.step(gradients, { rate: rateAt(steps), scale: clipScale(squares, maxGradientNorm) });
    steps += 1;
    total += loss;
    onStep?.({ step: steps, loss });
  }
  signal?.throwIfAborted();
  return {
    parameters: optimizer.parameters,
    steps,
    meanLoss: steps ? total / steps : 0,
    flops: steps * step.flops,
  };
}

/** What `work` gives; undefined when it failed because of `stop`. */
async function unlessStopped<T>(work: Promise<T>, stop?: AbortSignal): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (stop?.aborted) return undefined;
    throw error;
  }
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
