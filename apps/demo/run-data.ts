// Writes what the demo's programs read: the data of each board as CSV, the task, each board's
// configuration.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import { writeTable } from "../../runtime/index.ts";
import type { BoardFiles } from "../virtual-boards/board-process.ts";
import { type DemoBoard, demoBoards } from "./boards.ts";
import { DEMO_LABELS, demoSplit } from "./dataset.ts";

/** Where the demo's files are. */
export interface RunData {
  readonly taskFile: string;
  readonly boards: readonly BoardFiles[];
}

/** Writes the run's inputs; the same seed gives the same files. */
export async function writeRunData(
  runFolder: string,
  { seed, rounds }: { readonly seed: number; readonly rounds: number },
): Promise<RunData> {
  const data = join(runFolder, "data");
  await mkdir(data, { recursive: true });
  await mkdir(join(runFolder, "devices"), { recursive: true });
  const ids = demoBoards.map(({ id }) => id);
  const split = await demoSplit(seed, ids);
  const boards = ids.map((id) => {
    const config = join(runFolder, "devices", `${id}.yaml`);
    return { id, data: join(data, `${id}.csv`), config, hasLabels: true };
  });
  for (const [id, rows] of split.devices) await writeTable(join(data, `${id}.csv`), rows);
  await writeTable(join(data, "public.csv"), split.publicSet);
  await writeTable(join(data, "test.csv"), split.test);
  for (const board of demoBoards) await writeBoard(runFolder, board);
  const taskFile = join(runFolder, "task.yaml");
  await writeFile(taskFile, stringify(taskOf(seed, rounds)));
  return { taskFile, boards };
}

function taskOf(seed: number, rounds: number) {
  return {
    name: "sotu",
    seed,
    head: { kind: "classification", labels: [...DEMO_LABELS] },
    data: { test: "data/test.csv", public: "data/public.csv" },
    training: { rounds, localSteps: 16 },
    cohort: { minimumDevices: demoBoards.length },
    labelsMayLeave: true,
  };
}

/** One thread a board: four boards share this machine, and equal thread counts give equal numbers. */
async function writeBoard(runFolder: string, { id, profile, budget }: DemoBoard): Promise<void> {
  await writeFile(
    join(runFolder, "devices", `${id}.yaml`),
    stringify({ threads: 1, profile, budget }),
  );
}
