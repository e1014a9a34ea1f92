// Rows on a split client of two blocks: its time against the whole step, and training under a limit of memory
// that the kernel enforces.
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { askBench } from "../apps/bench/probe.ts";
import { pairedRatios } from "../apps/bench/statistics.ts";
import type { Workload } from "../apps/bench/workload.ts";
import { type LimitedGroup, limitBoards } from "../apps/demo/board-limits.ts";
import { askEngine, type EngineProbes } from "./engine-probe.ts";
import { estimateRow } from "./memory-rows.ts";
import type { Row } from "./row.ts";
import { measuredRow, missingRow, type Suite } from "./suite.ts";

/** The client of the 77-class head; its passes do not know which head follows. */
export async function clientRows({ workload, log }: Suite): Promise<readonly Row[]> {
  const client = { ...workload("classification"), cut: 2 };
  log("split client and whole step in turns ...");
  const { stepMs, fullStepMs = [] } = await askBench("times", { workload: client, runs: 11 });
  const ratio: Row = {
    ...measuredRow(
      "split client, cut 2: time / whole step",
      "ratio",
      pairedRatios(stepMs, fullStepMs),
    ),
    mustReach: { relation: "<=", limit: 0.26 },
  };
  log(`split client: ${steps} steps under ${limitMiB} MiB ...`);
  const limited = await limitedRow(client);
  log("split client: memory ...");
  const run = await askBench("training", { workload: client, steps: 4 });
  return [
    ratio,
    limited,
    measuredRow("split client, cut 2: peak resident memory", "MiB", [run.peakBytes / 2 ** 20]),
    estimateRow("split client, cut 2", [run]),
  ];
}

const steps = 20;
const limitMiB = 384;

/** Steps under the limit: as many as wanted, or none where the kernel ended the process. */
async function limitedRow(workload: Workload): Promise<Row> {
  const figure = `split client, cut 2: steps under an enforced ${limitMiB} MiB`;
  const rowOf = (value: number | undefined, reason: string): Row => {
    const row = missingRow(figure, "steps", reason);
    return { ...row, value, mustReach: { relation: ">=", limit: steps } };
  };
  const limit = { id: "client", cores: availableParallelism(), memoryBytes: limitMiB * 2 ** 20 };
  const group = await limitBoards([limit]);
  const folder = await mkdtemp(join(dirname(workload.cacheFolder), "limited-"));
  try {
    if (!group.enforced.includes("memory")) {
      return rowOf(undefined, `this machine enforces ${group.enforced}, not memory`);
    }
    const run = await limitedRun(group, { workload, steps, folder });
    if (run.kind === "ended") return rowOf(0, run.reason);
    const { limitBytes, peakBytes } = run.answer;
    return limitBytes === limit.memoryBytes
      ? rowOf(
          steps,
          `peak ${(peakBytes / 2 ** 20).toFixed(0)} MiB under a limit that was read back`,
        )
      : rowOf(undefined, `the client read a limit of ${limitBytes ?? "no"} bytes`);
  } finally {
    await group.close();
    await rm(folder, { recursive: true, force: true });
  }
}

type LimitedOutcome =
  | { readonly kind: "done"; readonly answer: EngineProbes["limited"]["answer"] }
  | { readonly kind: "ended"; readonly reason: string };

async function limitedRun(
  group: LimitedGroup,
  question: EngineProbes["limited"]["question"],
): Promise<LimitedOutcome> {
  try {
    const admit = (pid: number) => group.admit("client", pid);
    return { kind: "done", answer: await askEngine("limited", question, { admit }) };
  } catch (cause) {
    return { kind: "ended", reason: cause instanceof Error ? cause.message : String(cause) };
  }
}
