// What the federation is compared with: the same model and settings, trained in one place on as many
// examples as the federation saw.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { batchesOf, initialOf, labelsOf, modelSpec, type Task } from "../protocols/index.ts";
import {
  type BaseModel,
  baseModelFromTensors,
  batchIndices,
  type Engine,
  type Example,
  linearRate,
  loadScorer,
  loadStep,
  ortEngine,
  type Parameters,
  randomTensors,
  readTable,
  train,
} from "../runtime/index.ts";
import type { JournalRecord } from "./coordinator/journal.ts";
import type { PreparedTask } from "./coordinator/prepared-task.ts";
import { columnsOf, examplesOf, holdOut } from "./examples.ts";
import type { BoardFiles } from "./virtual-boards/board-process.ts";

/** Accuracy, or perplexity of a language model, on the test set by the baseline's name: "centralised", "untrained", "device <id>" and "randomBase". */
export type BaselineScores = ReadonlyMap<string, number>;

/** Name of the baseline of one device, alone on its own data. */
export function aloneName(deviceId: string): string {
  return `device ${deviceId}`;
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
  /** Also centralised over a base model with random weights: what pretraining is worth. */
  readonly withRandomBase?: boolean;
  /** Scores of an earlier, interrupted call: these are not trained again. */
  readonly known?: BaselineScores;
  /** Engines at once, one thread each. */
  readonly parallel: number;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: {
    readonly name: string;
    readonly step: number;
    readonly steps: number;
  }) => void;
  /** Told of each score once it is known. */
  readonly onScore?: (name: string, score: number) => Promise<void>;
}

/** Trains every baseline; the same seed gives the same scores. */
export async function trainBaselines(options: BaselineOptions): Promise<BaselineScores> {
  const cacheFolder = await mkdtemp(join(tmpdir(), "trifold-baseline-"));
  const { task, model, devices, withRandomBase = false, known = new Map() } = options;
  const all = [...devices.values()].flat();
  try {
    const randomJobs = withRandomBase
      ? [
          {
            name: "randomBase",
            model: await randomModelOf(task, model, cacheFolder),
            examples: all,
          },
        ]
      : [];
    const jobs = [
      { name: "centralised", model, examples: all },
      ...randomJobs,
      ...[...devices].map(([id, examples]) => ({ name: aloneName(id), model, examples })),
      { name: "untrained", model, examples: [] },
    ];
    const missing = jobs.filter(({ name }) => !known.has(name));
    return new Map([...known, ...(await runJobs(missing, options))]);
  } finally {
    await rm(cacheFolder, { recursive: true, force: true });
  }
}

/** What each board trained on, as its own process chose it. */
export async function boardExamples(
  { task, tokenizer }: Pick<PreparedTask, "task" | "tokenizer">,
  boards: readonly BoardFiles[],
): Promise<ReadonlyMap<string, readonly Example[]>> {
  const labels = labelsOf(task);
  const sequence = task.training.sequenceLength;
  const columns = columnsOf(task, { textColumn: "text", labelColumn: "label" });
  const parts = boards.map(async ({ id, data }) => {
    const rows = await readTable(data, columns);
    const examples = examplesOf(rows, { tokenizer, labels, sequence });
    return [id, holdOut(examples, 0.2, [task.seed, id]).train] as const;
  });
  return new Map(await Promise.all(parts));
}

/** Optimizer steps that see as many private examples as all devices saw together. */
export function stepsSeen(records: readonly JournalRecord[], { training }: Task): number {
  const reports = records.filter((record) => record.kind === "report");
  const seen = reports.reduce((sum, { report }) => sum + report.examplesSeen, 0);
  return Math.round(seen / training.batchSize);
}

function randomModelOf(task: Task, { config }: BaseModel, cacheFolder: string): Promise<BaseModel> {
  return baseModelFromTensors(config, randomTensors(config, task.seed), { cacheFolder });
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
        const score = await runJob(engine, job, options);
        scores.set(job.name, score);
        await options.onScore?.(job.name, score);
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
  const { task, testSet, signal } = options;
  const spec = modelSpec(task, model);
  const parameters =
    examples.length === 0
      ? initialOf(task)
      : await trainAlone(engine, { name, model, examples }, options);
  const scorer = await loadScorer(engine, spec);
  const score = await scorer.run(parameters, testSet, signal);
  await scorer.close();
  return score.accuracy ?? score.perplexity ?? Number.NaN;
}

/** The task's schedule over the baseline's steps, on batches of its own order. */
async function trainAlone(
  engine: Engine,
  { name, model, examples }: Job,
  { task, steps, signal, onProgress }: BaselineOptions,
): Promise<Parameters> {
  const { learningRate: rate, finalRateFraction: finalFraction } = task.training;
  const { maxGradientNorm, weightDecay, batchSize } = task.training;
  const step = await loadStep(engine, modelSpec(task, model));
  const order = batchIndices(examples.length, batchSize, steps, [task.seed, "baseline", name]);
  const batches = function* () {
    for (const { feeds } of batchesOf(task, examples, order)) yield feeds;
  };
  const { parameters } = await train({
    step,
    initial: initialOf(task),
    batches: batches(),
    rateAt: (at) => linearRate(at, { rate, finalFraction, totalSteps: steps }),
    maxGradientNorm,
    weightDecay,
    maskKey: [task.seed, "dropout", "baseline", name],
    signal,
    onStep: ({ step: at }) => onProgress({ name, step: at, steps }),
  });
  await step.close();
  return parameters;
}
