// The steps of `trifold train`, from the beginning or from a checkpoint, and the state that is saved on the way.
import {
  createOptimizer,
  type Engine,
  initialParameters,
  type ModelSpec,
  type OptimizerSettings,
  type Parameters,
  type PrefixCacheReport,
  scheduledRate,
  train,
} from "../../runtime/index.ts";
import { readCheckpoint, type TrainingTotals, writeCheckpoint } from "./checkpoint.ts";
import { openStep } from "./graphs.ts";
import type { TrainingOptions } from "./options.ts";
import type { TrainingPlan } from "./training-plan.ts";
import type { TrainingSettings } from "./training-settings.ts";

/** What a loop runs with. */
export interface LoopOptions {
  readonly options: TrainingOptions;
  readonly engine: Engine;
  readonly spec: ModelSpec;
  readonly plan: TrainingPlan;
  readonly settings: TrainingSettings;
}

/** Where a loop ended. */
export interface LoopResult {
  readonly parameters: Parameters;
  /** Steps made, those before a resumed run included. */
  readonly steps: number;
  readonly totals: TrainingTotals;
  readonly prefixReports: readonly PrefixCacheReport[];
}

/**
 * Makes the plan's steps. When the signal aborts, the step at hand is given up and a checkpoint of the last complete one is
 * written; rejects with the signal's reason when this run had made none.
 */
export async function runLoop(loop: LoopOptions): Promise<LoopResult> {
  const { options, engine, spec, plan } = loop;
  const { signal, out, checkpointEvery } = options;
  const start = await startOf(loop);
  const { optimizer, firstStep } = start;
  const objective = { kind: "labels", smoothing: options.labelSmoothing } as const;
  const { prefixCache } = options;
  const needs = { lengths: plan.lengths, objective, ...(prefixCache && { prefixCache }) };
  const step = await openStep(engine, spec, needs);
  const onStep = options.onStart({ steps: plan.steps, firstStep });
  const { totals, count } = countedTotals(start.totals);
  const { parameters } = optimizer;
  const save = () =>
    writeCheckpoint(out, {
      settings: loop.settings,
      totals: totals(),
      parameters,
      state: optimizer.state(),
    });
  let tokens = 0;
  try {
    signal.throwIfAborted();
    await train({
      step,
      optimizer,
      firstStep,
      batches: batchesOf(plan, firstStep),
      rateAt: rateOf(options, plan),
      maxGradientNorm: options.maxGradientNorm,
      maskKey: [options.seed, "dropout", "train"],
      signal,
      onStep: async (made) => {
        count(made);
        tokens += plan.tokens(made.step - 1);
        onStep({ step: made.step, loss: made.loss, tokens });
        const isDue = made.step % checkpointEvery === 0 && made.step < plan.steps;
        if (isDue && !signal.aborted) await save();
      },
    });
    await step.close();
  } catch (cause) {
    const { steps } = optimizer.state();
    // Anything else than the person's own wish is an error, and the last checkpoint stays.
    if (!signal.aborted || cause !== signal.reason || steps === firstStep) throw cause;
    await save();
  }
  const prefixReports = step.prefixReports();
  return { parameters, steps: optimizer.state().steps, totals: totals(), prefixReports };
}

/** The seeded start, or the checkpoint's. */
async function startOf({ options, spec, settings }: LoopOptions) {
  const { seed, resume, out, log } = options;
  const { model, lora, head } = spec;
  const initial = initialParameters(model.config, lora, head, seed);
  const kind = optimizerSettings(options);
  const none = { loss: 0, flops: 0, seconds: 0 };
  if (!resume) return { optimizer: createOptimizer(kind, initial), firstStep: 0, totals: none };
  const fit = { settings, initial, optimizer: options.optimizer };
  const { parameters, state, totals } = await readCheckpoint(out, fit);
  log(`goes on behind step ${state.steps}`);
  return { optimizer: createOptimizer(kind, parameters, state), firstStep: state.steps, totals };
}

function optimizerSettings({ optimizer: kind, weightDecay }: TrainingOptions): OptimizerSettings {
  return { kind, weightDecay };
}

/** Sums that go on from those of earlier runs. */
function countedTotals(before: TrainingTotals) {
  const startMs = performance.now();
  let { loss, flops } = before;
  return {
    count: (step: { readonly loss: number; readonly flops: number }) => {
      loss += step.loss;
      flops += step.flops;
    },
    totals: (): TrainingTotals => ({
      loss,
      flops,
      seconds: before.seconds + (performance.now() - startMs) / 1000,
    }),
  };
}

function rateOf(options: TrainingOptions, { steps: totalSteps }: TrainingPlan) {
  const { learningRate: rate, schedule: kind, warmUp: warmUpSteps } = options;
  const schedule = { kind, rate, warmUpSteps, totalSteps, finalFraction: 0.1 };
  return (step: number) => scheduledRate(schedule, step);
}

function* batchesOf(plan: TrainingPlan, firstStep: number) {
  for (let step = firstStep; step < plan.steps; step++) yield plan.feeds(step);
}
