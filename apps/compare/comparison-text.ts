// The comparison on a terminal: what each configuration took and reached, and which is best at what.
import { bytes } from "../report/figures.ts";
import { textTable } from "../text-table.ts";
import { wrapText } from "../wrapped-text.ts";
import { type ComparisonResult, type ConfigurationFigures, labelOf } from "./comparison.ts";
import type { Score } from "./score.ts";
import type { Estimate } from "./statistics.ts";
import { scoreFormat } from "./verdicts.ts";

/** Tables and sentences; fits 80 columns while labels are short. */
export function comparisonText(result: ComparisonResult, files: readonly string[]): string {
  const { task, configurations, baselines, verdicts, machine } = result;
  const { metric } = task;
  const majority = task.majority === undefined ? [] : [majorityRow(task.majority)];
  const scores = [
    ...configurations.map((one) => [labelOf(one), estimateText(metric, scoreOf(one))]),
    ...baselines.map((one) => [one.name, estimateText(metric, scoreOf(one))]),
    ...majority,
  ];
  return [
    textTable(
      ["configuration", "up", "down", "(raw)", "GFLOP", "peak\nmemory", "seconds\na round"],
      configurations.map(costRow),
      { right: [1, 2, 3, 4, 5, 6] },
    ),
    "up, down, raw (float32, both ways) and GFLOP: mean per device and round",
    textTable([`${metric} on the test set`, ""], scores, { right: [1] }),
    ...(verdicts.length > 0
      ? [wrapText(verdicts.map(({ constraint, text }) => `${constraint}: ${text}`).join("\n"), 79)]
      : []),
    wrapText(`Seconds are those of ${machine}; on a link they are computed (docs/compare.md).`, 79),
    files.join("\n"),
  ].join("\n\n");
}

/** "93.1 % ± 0.4" with the half of the 95 % interval; without it for one seed. */
export function estimateText(metric: Score["metric"], { mean, interval95 }: Estimate): string {
  const text = scoreFormat(metric)(mean);
  if (interval95 === null) return text;
  const half = interval95.high - mean;
  return `${text} ± ${metric === "accuracy" ? (100 * half).toFixed(1) : half.toFixed(2)}`;
}

/** Whichever of the two there is. */
export function scoreOf(one: {
  readonly accuracy?: Estimate;
  readonly perplexity?: Estimate;
}): Estimate {
  return one.accuracy ?? one.perplexity ?? { mean: Number.NaN, std: 0, interval95: null };
}

function majorityRow(share: number): readonly string[] {
  return ["always the most frequent label", scoreFormat("accuracy")(share)];
}

function costRow(one: ConfigurationFigures): readonly string[] {
  return [
    labelOf(one),
    bytes(one.uplinkBytesPerDeviceRound),
    bytes(one.downlinkBytesPerDeviceRound),
    bytes(one.rawBytesPerDeviceRound),
    (one.flopsPerDeviceRound / 1e9).toFixed(1),
    bytes(one.peakMemoryBytes),
    one.secondsPerRound.toFixed(1),
  ];
}
