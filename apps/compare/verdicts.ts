// Which configuration is best at what, in plain words and computed from the runs. Two that the seeds do not tell apart
// are not ranked as if they did.
import { formatQuantity } from "../../devices/index.ts";
import { bytes, flops } from "../report/figures.ts";
import { labelOf, networkLinks, type SeedFigures, type Verdict } from "./comparison.ts";
import { isBetter, type Score } from "./score.ts";
import { excludesZero, meanOf, pairedDifference } from "./statistics.ts";
import type { ConfigurationRuns } from "./summary.ts";

/** One verdict for each constraint; none for fewer than two configurations. */
export function verdictsOf(
  metric: Score["metric"],
  all: readonly ConfigurationRuns[],
): readonly Verdict[] {
  if (all.length < 2) return [];
  return constraintsOf(metric, all).map((constraint) => judge(constraint, all));
}

/** Something that a configuration can be best at. */
interface Constraint {
  readonly name: string;
  /** The figure of one run; infinite when the run does not have it. */
  readonly read: (run: SeedFigures) => number;
  readonly better: "lower" | "higher";
  readonly format: (value: number) => string;
}

function constraintsOf(
  metric: Score["metric"],
  all: readonly ConfigurationRuns[],
): readonly Constraint[] {
  const formatScore = scoreFormat(metric);
  const target = targetOf(metric, all);
  const better = "lower";
  const seconds = (value: number) => formatQuantity(value, "seconds");
  return [
    {
      name: metric === "accuracy" ? "best accuracy" : "lowest perplexity",
      read: ({ score }) => score,
      better: metric === "accuracy" ? "higher" : better,
      format: formatScore,
    },
    {
      name: "fewest bytes per device and round",
      read: (run) => run.uplinkBytesPerDeviceRound + run.downlinkBytesPerDeviceRound,
      better,
      format: bytes,
    },
    {
      name: "fewest bytes up per device and round",
      read: ({ uplinkBytesPerDeviceRound }) => uplinkBytesPerDeviceRound,
      better,
      format: bytes,
    },
    {
      name: "least peak memory of a device",
      read: ({ peakMemoryBytes }) => peakMemoryBytes,
      better,
      format: bytes,
    },
    {
      name: "fewest FLOPs per device and round",
      read: ({ flopsPerDeviceRound }) => flopsPerDeviceRound,
      better,
      format: flops,
    },
    ...networkLinks.flatMap(({ name }, i): Constraint[] => [
      {
        name: `all rounds fastest on ${name}`,
        read: ({ secondsOnLink }) => secondsOnLink[i] ?? Number.POSITIVE_INFINITY,
        better,
        format: seconds,
      },
      {
        name: `first at ${formatScore(target)} on ${name}`,
        read: (run) => secondsUntil(metric, run, target, i),
        better,
        format: seconds,
      },
    ]),
  ];
}

/** What every configuration reaches in the mean: the worst final score. */
function targetOf(metric: Score["metric"], all: readonly ConfigurationRuns[]): number {
  const means = all.map(({ runs }) => meanOf(runs.map(({ score }) => score)));
  return means.reduce((a, b) => (isBetter(metric, a, b) ? b : a));
}

/** Seconds on a link until the score is first reached; infinite when it never is. */
function secondsUntil(
  metric: Score["metric"],
  { rounds }: SeedFigures,
  target: number,
  link: number,
): number {
  let passed = 0;
  for (const { score, secondsOnLink } of rounds) {
    passed += secondsOnLink[link] ?? 0;
    if (!isBetter(metric, target, score)) return passed;
  }
  return Number.POSITIVE_INFINITY;
}

function judge(
  { name, read, better, format }: Constraint,
  all: readonly ConfigurationRuns[],
): Verdict {
  const rows = all
    .map((one) => ({ label: labelOf(one.configuration), values: one.runs.map(read) }))
    .map((row) => ({ ...row, mean: meanOf(row.values) }))
    .sort((a, b) => (better === "lower" ? a.mean - b.mean : b.mean - a.mean));
  const [best, next] = rows as [(typeof rows)[number], (typeof rows)[number]];
  if (!Number.isFinite(best.mean)) {
    const text = "No configuration gets there under every seed.";
    return { constraint: name, best: "none", isSeparated: false, text };
  }
  const head = `${best.label} with ${format(best.mean)}`;
  if (!Number.isFinite(next.mean)) {
    const text = `${head}; no other gets there under every seed.`;
    return { constraint: name, best: best.label, isSeparated: true, text };
  }
  const difference = pairedDifference(best.values, next.values);
  const isSeparated = excludesZero(difference);
  const against = `${head}, before ${next.label} with ${format(next.mean)}`;
  const runs = `${best.values.length} seeds`;
  const outcome =
    difference.interval95 === null
      ? "one seed, so how sure this is cannot be told"
      : isSeparated
        ? `the difference is larger than its 95 % interval over ${runs}`
        : `the difference is within its 95 % interval over ${runs}, so these runs do not tell the two apart`;
  const text = `${against}: ${outcome}.`;
  return {
    constraint: name,
    best: best.label,
    runnerUp: next.label,
    difference,
    isSeparated,
    text,
  };
}

/** "93.1 %", or "12.3" for a perplexity. */
export function scoreFormat(metric: Score["metric"]): (value: number) => string {
  return metric === "accuracy"
    ? (value) => `${(100 * value).toFixed(1)} %`
    : (value) => `perplexity ${value.toFixed(value < 100 ? 2 : 0)}`;
}
