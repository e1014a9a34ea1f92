// The demo: the main job on one machine, with real parts. Its inputs are written to a run folder,
// coordinator and broker run here, each board is a process of its own; then come the baselines.
import { mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import {
  type BaselineOptions,
  type BaselineScores,
  boardExamples,
  stepsSeen,
  trainBaselines,
} from "../baselines.ts";
import type { OnEvent } from "../coordinator/events.ts";
import { type JournalRecord, journalFile, readJournal } from "../coordinator/journal.ts";
import { type PreparedTask, prepareTask } from "../coordinator/prepared-task.ts";
import { readTaskFile } from "../coordinator/task-file.ts";
import { measureGemm } from "../device/gemm-probe.ts";
import { runVirtualFederation } from "../virtual-boards/federation.ts";
import { type LimitedGroup, limitBoards } from "./board-limits.ts";
import { demoBoards } from "./boards.ts";
import { type RunData, writeRunData } from "./run-data.ts";

/** How the demo is run. */
export interface DemoOptions {
  readonly rounds: number;
  readonly seed: number;
  /** Run folder; created, and gone on with when it holds an unfinished run of the same seed. */
  readonly out: string;
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
  readonly onEvent: OnEvent;
  readonly onBaseline: BaselineOptions["onProgress"];
  /** A line about what the demo does now. */
  readonly onStage: (text: string) => void;
  readonly log: (message: string) => void;
}

/** What a demo leaves. */
export interface DemoResult {
  readonly runFolder: string;
  readonly prepared: PreparedTask;
  /** Wall time of the rounds, without the boards' start and the baselines. */
  readonly trainingSeconds: number;
  readonly accuracy: number;
  readonly baselines: BaselineScores;
  /** What this machine enforced of the boards' limits: "cpu and memory", "cpu" or "nothing". */
  readonly enforced: string;
}

/** Runs everything; rejects with the signal's reason when stopped, all processes ended. */
export async function runDemo(options: DemoOptions): Promise<DemoResult> {
  const { rounds, seed, onStage, cacheFolder, log } = options;
  const runFolder = resolve(options.out);
  await mkdir(runFolder, { recursive: true });
  onStage("dealing out the speeches");
  const data = await writeRunData(runFolder, { seed, rounds });
  onStage("measuring this machine");
  const group = await limitBoards(await boardLimits(options.signal));
  let accuracy: number;
  try {
    accuracy = await federate(options, runFolder, data, group);
  } finally {
    await group.close();
  }
  const records = await readJournal(journalFile(runFolder));
  onStage("training the baselines on as many examples");
  const prepared = await prepareTask(await readTaskFile(data.taskFile), cacheFolder);
  const baselines = await trainBaselines({
    task: prepared.task,
    model: prepared.model,
    devices: await boardExamples(prepared, data.boards),
    testSet: prepared.testSet,
    steps: stepsSeen(records, prepared.task),
    withRandomBase: true,
    parallel: 2,
    signal: options.signal,
    onProgress: options.onBaseline,
  });
  log(`run folder ${runFolder}`);
  const trainingSeconds = roundSeconds(records);
  return { runFolder, prepared, trainingSeconds, accuracy, baselines, enforced: group.enforced };
}

/** A board's share of one of this machine's cores, by the rates of their matrix products, and its memory. */
async function boardLimits(signal: AbortSignal) {
  const hostRate = await measureGemm({ threads: 1, signal });
  return demoBoards.map(({ id, profile }) => ({
    id,
    cores: profile.gemmFlopsPerSecond.value / hostRate,
    memoryBytes: profile.memory.totalBytes.value,
  }));
}

/** The rounds: coordinator and broker here, the boards beside, each under its limits. */
async function federate(
  options: DemoOptions,
  runFolder: string,
  data: RunData,
  group: LimitedGroup,
): Promise<number> {
  const { cacheFolder, signal, onEvent, log } = options;
  options.onStage(`starting ${demoBoards.length} boards`);
  const { accuracy } = await runVirtualFederation({
    taskFile: data.taskFile,
    runFolder,
    boards: data.boards,
    cacheFolder,
    signal,
    onEvent,
    onBoard: (id, pid) =>
      group
        .admit(id, pid)
        .catch((error: Error) => log(`${id} runs without limits: ${error.message}`)),
    log,
  });
  // The demo's task is a classification.
  return accuracy ?? 0;
}

/** Wall time of the finished rounds, those before an interruption included. */
function roundSeconds(records: readonly JournalRecord[]): number {
  const closed = records.filter((record) => record.kind === "closed");
  return closed.reduce((sum, { seconds }) => sum + seconds, 0);
}
