// Rows on memory, and on the time to the first step: processes that only train, in the configuration that is timed.
import { askBench } from "../apps/bench/probe.ts";
import type { TrainingRun } from "../apps/bench/training-run.ts";
import type { Workload } from "../apps/bench/workload.ts";
import type { ExecutionMode } from "../runtime/index.ts";
import type { Row } from "./row.ts";
import { headTitles, measuredRow as row, type Suite } from "./suite.ts";

/** Both heads, the head with weights rearranged, and every other execution mode. */
export async function memoryRows({ workload, log }: Suite): Promise<readonly Row[]> {
  const train = async (head: Parameters<typeof workload>[0], how: Partial<Workload> = {}) => {
    return await askBench("training", { workload: { ...workload(head), ...how }, steps: 4 });
  };
  log("processes that only train ...");
  const lm = await train("lm");
  const runs: TrainingRun[] = [];
  for (let i = 0; i < 3; i++) runs.push(await train("classification"));
  const prepacked = await train("classification", { prepacking: true });
  const modes: ModeRun[] = [];
  for (const headName of ["classification", "lm"] as const) {
    for (const mode of otherModes) {
      log(`${headTitles[headName]}, ${mode} ...`);
      const runs: TrainingRun[] = [];
      for (let i = 0; i < 3; i++) runs.push(await train(headName, { mode }));
      modes.push({ head: headName, mode, runs });
    }
  }
  const head = headTitles.classification;
  const peaks = runs.map(({ peakBytes }) => peakBytes / 2 ** 20);
  return [
    row(`${headTitles.lm}: peak resident memory, whole graph`, "MiB", [lm.peakBytes / 2 ** 20]),
    {
      ...row(`${head}: peak resident memory, whole graph`, "MiB", peaks),
      mustReach: { relation: "<=", limit: 650 },
    },
    row(
      `${head}: training step with its optimizer`,
      "ms",
      runs.flatMap(({ stepMs }) => stepMs),
    ),
    ...modes.flatMap(modeRows),
    estimateRow(`${headTitles.lm}, whole graph`, [lm]),
    estimateRow(`${head}, whole graph`, runs),
    {
      ...row(`${head}: new engine to the end of the first step`, "s", firstSteps(runs)),
      mustReach: { relation: "<=", limit: 1 },
    },
    row(`${head}, weights rearranged: training step with its optimizer`, "ms", prepacked.stepMs),
    row(`${head}, weights rearranged: peak resident memory`, "MiB", [
      prepacked.peakBytes / 2 ** 20,
    ]),
  ];
}

const estimateFigure = "estimate off the measured peak";
const estimateBound = { relation: "<=", limit: 0.15 } as const;

/** How far the estimate of the whole process is from its measured peak. */
export function estimateRow(title: string, runs: readonly TrainingRun[]): Row {
  const errors = runs.map(({ estimatedBytes, peakBytes }) =>
    Math.abs(estimatedBytes / peakBytes - 1),
  );
  return { ...row(`${title}: ${estimateFigure}`, "ratio", errors), mustReach: estimateBound };
}

function firstSteps(runs: readonly TrainingRun[]): readonly number[] {
  return runs.map(({ firstStepMs }) => firstStepMs / 1000);
}

const otherModes = ["whole-int8", "whole-int4", "blocks-float32", "blocks-int8"] as const;

interface ModeRun {
  readonly head: keyof typeof headTitles;
  readonly mode: ExecutionMode;
  readonly runs: readonly TrainingRun[];
}

/** Time, memory and estimate of a mode; block by block with int8 layers has a limit of its own. */
function modeRows({ head, mode, runs }: ModeRun): readonly Row[] {
  const title = `${headTitles[head]}, ${mode}`;
  const peaks = runs.map(({ peakBytes }) => peakBytes / 2 ** 20);
  const peak = row(`${title}: peak resident memory`, "MiB", peaks);
  const isLimited = mode === "blocks-int8";
  return [
    isLimited ? { ...peak, mustReach: { relation: "<=", limit: 540 } } : peak,
    row(
      `${title}: training step with its optimizer`,
      "ms",
      runs.flatMap(({ stepMs }) => stepMs),
    ),
    estimateRow(title, runs),
  ];
}
