// The baselines of one seed: trained on the devices' own texts, as many examples seen as by all devices of the seed's
// first federation together. Each score is kept, so that an interrupted comparison does not train it again.
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../../runtime/index.ts";
import {
  aloneName,
  type BaselineOptions,
  boardExamples,
  stepsSeen,
  trainBaselines,
} from "../baselines.ts";
import { journalFile, readJournal } from "../coordinator/journal.ts";
import { prepareTask } from "../coordinator/prepared-task.ts";
import { readTaskFile } from "../coordinator/task-file.ts";
import type { Configuration } from "./comparison.ts";
import { type ComparisonPlan, taskOf } from "./plan.ts";
import { type SeedFiles, taskText, writeRunInputs } from "./run-inputs.ts";

/** Scores of one seed. */
export interface SeedBaselines {
  readonly centralised: number;
  readonly untrained: number;
  /** Of each device alone, in the order of the devices. */
  readonly alone: readonly number[];
}

/** What the baselines need beside the plan. */
export interface SeedBaselineOptions extends ComparisonPlan {
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
  readonly onProgress: (
    progress: { readonly kind: "baseline"; readonly seed: number } & Parameters<
      BaselineOptions["onProgress"]
    >[0],
  ) => void;
}

/** Trains what is not known yet, with the task's settings before any sweep. */
export async function seedBaselines(
  options: SeedBaselineOptions,
  files: SeedFiles,
  out: string,
): Promise<SeedBaselines> {
  const { seed, boards } = files;
  const folder = join(out, "baselines", `seed-${seed}`);
  await mkdir(folder, { recursive: true });
  const taskFile = join(folder, "task.yaml");
  const publicFile = files.publicFile(options.publicSize);
  const text = taskText(taskOf(options, unswept, seed), {
    runFolder: folder,
    plan: options,
    files,
    publicFile,
  });
  await writeFile(taskFile, text);
  const prepared = await prepareTask(await readTaskFile(taskFile), options.cacheFolder);
  const steps = await stepsOfFirst(options, files, out, prepared.task);
  const store = await openScores(
    join(folder, "scores.json"),
    hashOf([text, files.sha256, String(steps)]),
  );
  const scores = await trainBaselines({
    task: prepared.task,
    model: prepared.model,
    devices: await boardExamples(prepared, boards),
    testSet: prepared.testSet,
    steps,
    known: store.known,
    parallel: 2,
    signal: options.signal,
    onProgress: (progress) => options.onProgress({ kind: "baseline", seed, ...progress }),
    onScore: store.add,
  });
  const score = (name: string) => scores.get(name) ?? Number.NaN;
  return {
    centralised: score("centralised"),
    untrained: score("untrained"),
    alone: boards.map(({ id }) => score(aloneName(id))),
  };
}

/** Names no options; which framework it names makes no difference to a baseline. */
const unswept: Configuration = { framework: "full", options: {} };

async function stepsOfFirst(
  plan: ComparisonPlan,
  files: SeedFiles,
  out: string,
  task: Parameters<typeof stepsSeen>[1],
): Promise<number> {
  const [first = unswept] = plan.configurations;
  const { runFolder } = await writeRunInputs(out, plan, first, files);
  return stepsSeen(await readJournal(journalFile(runFolder)), task);
}

/** Scores on disk that belong to one training; those of another are forgotten. */
async function openScores(path: string, key: string) {
  const text = await readFile(path, "utf8").catch(() => "{}");
  const saved = JSON.parse(text) as { key?: string; scores?: Record<string, number> };
  const known = new Map(saved.key === key ? Object.entries(saved.scores ?? {}) : []);
  const add = async (name: string, score: number): Promise<void> => {
    known.set(name, score);
    const scores = Object.fromEntries(known);
    await writeFileAtomic(path, `${JSON.stringify({ key, scores }, undefined, 2)}\n`);
  };
  return { known: new Map(known), add };
}

function hashOf(parts: readonly string[]): string {
  return createHash("sha256").update(parts.join("\0")).digest("hex");
}
