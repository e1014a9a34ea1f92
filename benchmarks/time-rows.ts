// Rows on time: the step against its loss, PyTorch's step and this machine's matrix products. All take turns
// in one process, and ratios are medians over rounds.
import { pairedRatios } from "../apps/bench/statistics.ts";
import { askEngine, type TurnTimes } from "./engine-probe.ts";
import type { Row } from "./row.ts";
import { headTitles, measuredRow, missingRow, type Suite } from "./suite.ts";

/** Both heads. */
export async function timeRows({ workload, pytorch, log }: Suite): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const head of ["lm", "classification"] as const) {
    log(`${headTitles[head]}: loss, step and PyTorch in turns ...`);
    const question = { workload: workload(head), runs: 11, pytorch };
    const times = await askEngine("turns", question);
    const tokens = question.workload.batch * question.workload.sequence;
    const missing = pytorch.kind === "missing" ? pytorch.reason : undefined;
    rows.push(...ownRows(head, times, tokens), ...pytorchRows(head, times, missing));
  }
  return rows;
}

type Head = keyof typeof headTitles;

const limits: Readonly<Record<Head, { readonly loss: number; readonly pytorch: number }>> = {
  lm: { loss: 2.1, pytorch: 0.85 },
  classification: { loss: 2, pytorch: 0.95 },
};

function ownRows(head: Head, times: TurnTimes, tokens: number): readonly Row[] {
  const { lossOnlyMs, stepMs, stepFlops, products } = times;
  const rates = stepMs.map((ms) => (1000 * stepFlops) / ms);
  return [
    row(head, "loss only", "ms", lossOnlyMs),
    row(head, "training step", "ms", stepMs),
    {
      ...row(head, "step / loss only", "ratio", pairedRatios(stepMs, lossOnlyMs)),
      mustReach: { relation: "<=", limit: limits[head].loss },
    },
    row(
      head,
      "training",
      "tokens/s",
      stepMs.map((ms) => (1000 * tokens) / ms),
    ),
    row(
      head,
      "matrix products of the step",
      "GFLOP/s",
      rates.map((rate) => rate / 1e9),
    ),
    row(head, "share of the rate of large products", "ratio", pairedRatios(rates, products)),
  ];
}

function pytorchRows(
  head: Head,
  { stepMs, pytorchMs, pytorchPeakBytes }: TurnTimes,
  reason: string | undefined,
): readonly Row[] {
  const figure = `${headTitles[head]}: step / PyTorch's step`;
  const mustReach = { relation: "<=", limit: limits[head].pytorch } as const;
  if (reason !== undefined) {
    return [{ ...missingRow(figure, "ratio", reason), mustReach }];
  }
  return [
    row(head, "PyTorch's step", "ms", pytorchMs),
    { ...row(head, "step / PyTorch's step", "ratio", pairedRatios(stepMs, pytorchMs)), mustReach },
    row(head, "peak resident memory of PyTorch", "MiB", [pytorchPeakBytes / 2 ** 20]),
  ];
}

function row(head: Head, figure: string, unit: string, values: readonly number[]): Row {
  return measuredRow(`${headTitles[head]}: ${figure}`, unit, values);
}
