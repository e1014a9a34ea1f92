// What the federation is compared with: the same model and settings, trained in one place on as many
// examples as the federation saw.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { batchShape, initialOf, modelSpec, type Task } from "../protocols/index.ts";
import {
  type BaseModel,
  baseModelFromTensors,
  batchIndices,
  type Engine,
  type Example,
  linearRate,
  loadPredictor,
  loadStep,
  makeBatch,
  ortEngine,
  type Parameters,
  predictAll,
  randomTensors,
  scoreClassification,
  train,
} from "../runtime/index.ts";

/** Accuracy on the test set, 0..1. */
export interface BaselineScores {
  /** The seeded start. */
  readonly untrained: number;
  /** The best of the devices, each alone on its own data. */
  readonly bestDevice: number;
  /** By device id. */
  readonly devices: Readonly<Record<string, number>>;
  /** On all devices' data together. */
  readonly centralised: number;
  /** Centralised, over a base model with random weights: what pretraining is worth. */
  readonly randomBase: number;
}

/** What the baselines are trained on. */
export interface BaselineOptions {
  readonly task: Task;
  readonly model: BaseModel;
  /** Private training examples by device id, hold-outs excluded. */
  readonly devices: ReadonlyMap<string, readonly Example[]>;
  readonly testSet: readonly Example[];
  /** Optimizer steps of each baseline: the examples all devices saw together. */
  readonly steps: number;
  /** Engines at once, one thread each. */
  readonly parallel: number;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: {
    readonly name: string;
    readonly step: number;
    readonly steps: number;
  }) => void;
}

/** Trains every baseline; the same seed gives the same scores. */
export async function trainBaselines(options: BaselineOptions): Promise<BaselineScores> {
  const cacheFolder = await mkdtemp(join(tmpdir(), "trifold-baseline-"));
  const { task, model, devices } = options;
  const all = [...devices.values()].flat();
  try {
    const randomModel = await baseModelFromTensors(
      model.config,
      randomTensors(model.config, task.seed),
      { cacheFolder },
    );
    const jobs = [
      { name: "centralised", model, examples: all },
      { name: "randomBase", model: randomModel, examples: all },
      ...[...devices].map(([name, examples]) => ({ name: `device ${name}`, model, examples })),
      { name: "untrained", model, examples: [] },
    ];
    const scores = await runJobs(jobs, options);
    const score = (name: string) => scores.get(name) as number;
    const singles = Object.fromEntries(
      [...devices.keys()].map((id) => [id, score(`device ${id}`)]),
    );
    return {
      untrained: score("untrained"),
      bestDevice: Math.max(...Object.values(singles)),
      devices: singles,
      centralised: score("centralised"),
      randomBase: score("randomBase"),
    };
  } finally {
    await rm(cacheFolder, { recursive: true, force: true });
  }
}

interface Job {
  readonly name: string;
  readonly model: BaseModel;
  /** None: the start is scored as it is. */
  readonly examples: readonly Example[];
}

/** Several engines take jobs from one queue. */
async function runJobs(
  jobs: readonly Job[],
  options: BaselineOptions,
): Promise<Map<string, number>> {
  const queue = [...jobs];
  const scores = new Map<string, number>();
  const work = async (): Promise<void> => {
    const engine = ortEngine({ threads: 1, signal: options.signal });
    try {
      for (let job = queue.shift(); job; job = queue.shift()) {
        scores.set(job.name, await runJob(engine, job, options));
      }
    } finally {
      await engine.close();
    }
  };
  await Promise.all(Array.from({ length: options.parallel }, work));
  return scores;
}

async function runJob(
  engine: Engine,
  { name, model, examples }: Job,
  options: BaselineOptions,
): Promise<number> {
  const { task, testSet, steps, signal, onProgress } = options;
  const spec = modelSpec(task, model);
  const shape = batchShape(task);
  const start = initialOf(task);
  let parameters: Parameters = start;
  if (examples.length > 0) {
    const step = await loadStep(engine, spec);
    const {
      learningRate: rate,
      finalRateFraction: finalFraction,
      maxGradientNorm,
      weightDecay,
    } = task.training;
    const order = batchIndices(examples.length, shape.batch, steps, [task.seed, "baseline", name]);
    const batches = function* () {
      for (const indices of order)
        yield makeBatch(
          indices.map((i) => examples[i] as Example),
          shape,
        ).feeds;
    };
    const trained = await train({
      step,
      initial: start,
      batches: batches(),
      rateAt: (at) => linearRate(at, { rate, finalFraction, totalSteps: steps }),
      maxGradientNorm,
      weightDecay,
      maskKey: [task.seed, "dropout", "baseline", name],
      signal,
      onStep: ({ step: at }) => onProgress({ name, step: at, steps }),
    });
    parameters = trained.parameters;
    await step.close();
  }
  const predictor = await loadPredictor(engine, spec);
  const logits = await predictAll(predictor, parameters, testSet, shape);
  await predictor.close();
  return scoreClassification(
    logits,
    testSet.map(({ label }) => label),
  ).accuracy;
}
