// Rows on memory, and on the time to the first step: processes that only train, in the configuration that is timed.
import { askBench } from "../apps/bench/probe.ts";
import type { TrainingRun } from "../apps/bench/training-run.ts";
import type { Row } from "./row.ts";
import { headTitles, missingRow, measuredRow as row, type Suite } from "./suite.ts";

/** Both heads, the head with weights rearranged, and the modes that are still missing. */
export async function memoryRows({ workload, log }: Suite): Promise<readonly Row[]> {
  const train = async (question: Parameters<typeof workload>[0], prepacking = false) => {
    return await askBench("training", {
      workload: { ...workload(question), prepacking },
      steps: 4,
    });
  };
  log("processes that only train ...");
  const lm = await train("lm");
  const runs: TrainingRun[] = [];
  for (let i = 0; i < 3; i++) runs.push(await train("classification"));
  const prepacked = await train("classification", true);
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
    {
      ...missingRow(`${head}: peak resident memory, block-wise int8`, "MiB", unbuilt),
      mustReach: { relation: "<=", limit: 540 },
    },
    estimateRow(`${headTitles.lm}, whole graph`, [lm]),
    estimateRow(`${head}, whole graph`, runs),
    {
      ...missingRow(`${head}, block-wise int8: ${estimateFigure}`, "ratio", unbuilt),
      mustReach: estimateBound,
    },
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

const unbuilt = "no execution mode of that name yet";
