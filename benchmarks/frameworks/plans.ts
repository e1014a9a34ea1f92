// The tasks that the suite compares on: texts, devices and settings of each study. Options that a study is about are
// the configurations' own.
import { join } from "node:path";
import type { Configuration, Framework } from "../../apps/compare/comparison.ts";
import type { ComparisonData } from "../../apps/compare/deal.ts";
import type { ComparisonPlan, TaskInput } from "../../apps/compare/plan.ts";
import { loadCorpus } from "../../apps/demo/corpus.ts";
import { DEMO_LABELS, passagesOf } from "../../apps/demo/dataset.ts";
import { collectLabels, randomStream, readTable } from "../../runtime/index.ts";

/** What all studies share: seeds in pairs, and the texts. */
export interface Ground {
  readonly seeds: readonly number[];
  /** State of the Union passages, spoken before 1900 or since. */
  readonly speeches: ComparisonData;
  /** Bank customers' questions of 77 intents; undefined without `--data`. */
  readonly questions: ComparisonData | undefined;
}

/** Reads the texts; throws `DATA_*` when the folder of `--data` has no banking77/train.csv and test.csv. */
export async function openGround(seeds: number, dataFolder?: string): Promise<Ground> {
  const { training, test } = passagesOf(await loadCorpus());
  return {
    seeds: Array.from({ length: seeds }, (_, i) => i + 1),
    speeches: { train: training, test: sample(test, 600) },
    questions: dataFolder === undefined ? undefined : await readQuestions(dataFolder),
  };
}

/** Speeches told apart by their century: four rounds of 16 steps. */
export function speechPlan(
  { seeds, speeches }: Ground,
  configurations: readonly Configuration[],
  more: Partial<ComparisonPlan> & {
    readonly count?: number;
    readonly training?: object;
    readonly adapter?: NonNullable<TaskInput["adapter"]>;
  } = {},
): ComparisonPlan {
  const { count = 3, training, adapter, ...plan } = more;
  const task: TaskInput = {
    name: "speeches",
    head: { kind: "classification", labels: [...DEMO_LABELS] },
    training: { rounds: 4, localSteps: 16, ...training },
    ...(adapter && { adapter }),
    labelsMayLeave: true,
  };
  return { ...common(seeds, count), task, data: speeches, configurations, ...plan };
}

/** Modern speeches continued: what kd's logits of 2,048 tokens at every position take. */
export function languagePlan(
  { seeds, speeches }: Ground,
  configurations: readonly Configuration[],
): ComparisonPlan {
  const modern = (rows: ComparisonData["train"]) =>
    rows
      .filter(({ label }) => label === DEMO_LABELS[1])
      .map(({ text }) => ({ text, label: undefined }));
  const data = { train: modern(speeches.train), test: sample(modern(speeches.test), 150) };
  const task: TaskInput = {
    name: "language",
    head: { kind: "lm" },
    training: { rounds: 3, localSteps: 12, batchSize: 8, sequenceLength: 64 },
  };
  return { ...common(seeds, 3), publicSize: 32, task, data, configurations };
}

/** Questions to a bank told apart by 77 intents. */
export function questionPlan(
  { seeds }: Ground,
  questions: ComparisonData,
  configurations: readonly Configuration[],
): ComparisonPlan {
  const labels = [...collectLabels(questions.train)];
  const task: TaskInput = {
    name: "questions",
    head: { kind: "classification", labels },
    adapter: { rank: 8, alpha: 16, targets: ["all-linear"] },
    training: { rounds: 4, localSteps: 60, batchSize: 32, sequenceLength: 32, learningRate: 0.006 },
    kd: { distillationSteps: 60, learningRate: 0.004 },
  };
  const data = { ...questions, test: sample(questions.test, 1000) };
  const own = { publicSize: 1000, rowsPerDevice: 3000, task, data, configurations };
  return { ...common(seeds, 3), ...own };
}

/** Every combination of frameworks with the same options. */
export function plainly(...frameworks: readonly Framework[]): readonly Configuration[] {
  return frameworks.map((framework) => ({ framework, options: {} }));
}

function common(seeds: readonly number[], count: number) {
  return {
    seeds,
    partition: { kind: "iid" },
    rowsPerDevice: 400,
    minimumRows: 20,
    publicSize: 300,
    devices: Array.from({ length: count }, (_, i) => {
      return { id: `device-${i + 1}`, board: "pi-5" } as const;
    }),
    mixed: ["full", "split", "kd"],
  } as const;
}

async function readQuestions(folder: string): Promise<ComparisonData> {
  const columns = { textColumn: "text", labelColumn: "category" };
  const read = (name: string) => readTable(join(folder, "banking77", name), columns);
  return { train: await read("train.csv"), test: await read("test.csv") };
}

/** The same rows in every run. */
function sample<T>(rows: readonly T[], count: number): readonly T[] {
  return randomStream("benchmark test set").shuffle(rows).slice(0, count);
}
