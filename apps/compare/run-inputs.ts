// Writes what the programs of one federation read, and notes what it was, so that a finished run is taken for
// another's nowhere.
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { stringify } from "yaml";
import { boardProfile } from "../../devices/index.ts";
import { writeFileAtomic, writeTable } from "../../runtime/index.ts";
import type { BoardFiles } from "../virtual-boards/board-process.ts";
import type { Configuration } from "./comparison.ts";
import { type Deal, unlabelled } from "./deal.ts";
import { compareErrors } from "./errors.ts";
import { type ComparisonPlan, publicSizeOf, type TaskInput, taskOf } from "./plan.ts";

/** The files of one seed, which all its federations read. */
export interface SeedFiles {
  readonly seed: number;
  readonly boards: readonly BoardFiles[];
  readonly testFile: string;
  /** File of the first `size` public texts. */
  publicFile(size: number): string;
  /** Of the devices' texts and configurations and the test set. */
  readonly sha256: string;
}

/** Where a federation is run. */
export interface RunPlace {
  readonly runFolder: string;
  readonly taskFile: string;
  readonly boards: readonly BoardFiles[];
}

/** Writes the texts of one seed; the same plan writes the same bytes. */
export async function writeSeedFiles(
  out: string,
  plan: ComparisonPlan,
  seed: number,
  deal: Deal,
): Promise<SeedFiles> {
  const folder = join(out, "data", `seed-${seed}`);
  const configs = join(out, "devices");
  for (const path of [folder, configs]) await mkdir(path, { recursive: true });
  const boards = plan.devices.map(({ id }) => {
    const files = { data: join(folder, `${id}.csv`), config: join(configs, `${id}.yaml`) };
    return { id, ...files, hasLabels: plan.task.head.kind !== "lm" };
  });
  for (const [i, { id, data, config }] of boards.entries()) {
    await writeTable(data, deal.devices.get(id) ?? []);
    const profile = boardProfile(plan.devices[i]?.board ?? "");
    // One thread each: the devices share this machine, and equal thread counts give equal numbers.
    await writeFile(config, stringify({ threads: 1, profile }));
  }
  const testFile = join(folder, "test.csv");
  await writeTable(testFile, plan.data.test);
  const publicFile = (size: number) => join(folder, `public-${size}.csv`);
  for (const size of new Set(plan.configurations.map((one) => publicSizeOf(plan, one))).add(
    plan.publicSize,
  )) {
    await writeTable(publicFile(size), unlabelled(deal.publicSet.slice(0, size)));
  }
  const read = [testFile, ...boards.flatMap(({ data, config }) => [data, config])];
  return { seed, boards, testFile, publicFile, sha256: await hashOf(read) };
}

/**
 * Writes the task of one federation into its own folder. Throws `COMPARISON_CHANGED` when the folder was run with
 * other texts, devices or settings.
 */
export async function writeRunInputs(
  out: string,
  plan: ComparisonPlan,
  configuration: Configuration,
  files: SeedFiles,
): Promise<RunPlace> {
  const runFolder = join(out, "runs", folderName(configuration), `seed-${files.seed}`);
  await mkdir(runFolder, { recursive: true });
  const publicFile = files.publicFile(publicSizeOf(plan, configuration));
  const taskFile = join(runFolder, "task.yaml");
  const task = taskOf(plan, configuration, files.seed);
  const text = taskText(task, { runFolder, plan, files, publicFile });
  const publicHash = await hashOf([publicFile]);
  const noted = JSON.stringify({ task: hashText(text), texts: files.sha256, public: publicHash });
  const noteFile = join(runFolder, "inputs.json");
  const known = await readFile(noteFile, "utf8").catch(() => undefined);
  if (known !== undefined && known !== noted) {
    throw compareErrors.error(
      "COMPARISON_CHANGED",
      `${runFolder} was run with other texts, devices or settings`,
      { hint: "Undo the change to go on, give another --out folder, or remove this one." },
    );
  }
  await writeFile(taskFile, text);
  await writeFileAtomic(noteFile, noted);
  return { runFolder, taskFile, boards: files.boards };
}

/** The task file of a federation, or of the baselines; paths are relative, so the whole folder can be moved. */
export function taskText(
  task: TaskInput,
  place: {
    readonly runFolder: string;
    readonly plan: Pick<ComparisonPlan, "modelFolder">;
    readonly files: Pick<SeedFiles, "testFile">;
    readonly publicFile: string;
  },
): string {
  const { runFolder, plan, files, publicFile } = place;
  const { modelFolder: model } = plan;
  const data = {
    test: relative(runFolder, files.testFile),
    public: relative(runFolder, publicFile),
  };
  return stringify({ ...task, ...(model === undefined ? {} : { model }), data });
}

/** "full", "full-rank=4": a folder name that the swept options can be read from. */
function folderName({ framework, options }: Configuration): string {
  const parts = Object.entries(options).map(
    ([name, value]) => `${name}=${encodeURIComponent(String(value))}`,
  );
  return [framework, ...parts].join("-");
}

async function hashOf(files: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const file of files) hash.update(await readFile(file)).update("\0");
  return hash.digest("hex");
}

function hashText(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
