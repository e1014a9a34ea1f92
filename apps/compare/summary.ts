// From single runs to the comparison's figures: over seeds, against the best, against the baselines. Pure.
import type {
  BaselineFigures,
  Configuration,
  ConfigurationFigures,
  SeedFigures,
} from "./comparison.ts";
import { networkLinks } from "./comparison.ts";
import { isBetter, type Score } from "./score.ts";
import { estimateOf, meanOf, pairedDifference } from "./statistics.ts";

/** A configuration with its runs, one for each seed and in the same order for every configuration. */
export interface ConfigurationRuns {
  readonly configuration: Configuration;
  readonly runs: readonly SeedFigures[];
}

/** Every configuration over its seeds, with its difference to the one that scores best. */
export function summariseConfigurations(
  metric: Score["metric"],
  all: readonly ConfigurationRuns[],
): readonly ConfigurationFigures[] {
  const best = bestOf(metric, all);
  return all.map((own) => summariseOne(metric, own, best));
}

/** The baselines in the order of reports; `alone` holds the devices' scores of each seed. */
export function summariseBaselines(
  metric: Score["metric"],
  perSeed: readonly {
    readonly centralised: number;
    readonly untrained: number;
    readonly alone: readonly number[];
  }[],
): readonly BaselineFigures[] {
  const best = (values: readonly number[]) =>
    values.reduce((a, b) => (isBetter(metric, b, a) ? b : a));
  const rows: readonly (readonly [string, readonly number[]])[] = [
    ["centralised", perSeed.map(({ centralised }) => centralised)],
    ["best device alone", perSeed.map(({ alone }) => best(alone))],
    ["devices alone, mean", perSeed.map(({ alone }) => meanOf(alone))],
    ["untrained", perSeed.map(({ untrained }) => untrained)],
  ];
  return rows.map(([name, scores]) => ({ name, [metric]: estimateOf(scores), scores }));
}

function bestOf(metric: Score["metric"], all: readonly ConfigurationRuns[]) {
  const mean = ({ runs }: ConfigurationRuns) => meanOf(runs.map(({ score }) => score));
  return all.reduce((a, b) => (isBetter(metric, mean(b), mean(a)) ? b : a));
}

function summariseOne(
  metric: Score["metric"],
  own: ConfigurationRuns,
  best: ConfigurationRuns,
): ConfigurationFigures {
  const { configuration, runs } = own;
  const scores = (of: ConfigurationRuns) => of.runs.map(({ score }) => score);
  const mean = (read: (run: SeedFigures) => number) => meanOf(runs.map(read));
  const joules = runs.map((run) => run.estimatedJoulesPerDeviceRound);
  const known = joules.filter((value) => value !== undefined);
  return {
    ...configuration,
    seeds: runs.map(({ seed }) => seed),
    [metric]: estimateOf(scores(own)),
    ...(own === best ? {} : { differenceToBest: pairedDifference(scores(own), scores(best)) }),
    uplinkBytesPerDeviceRound: mean((run) => run.uplinkBytesPerDeviceRound),
    downlinkBytesPerDeviceRound: mean((run) => run.downlinkBytesPerDeviceRound),
    rawBytesPerDeviceRound: mean((run) => run.rawBytesPerDeviceRound),
    flopsPerDeviceRound: mean((run) => run.flopsPerDeviceRound),
    peakMemoryBytes: mean((run) => run.peakMemoryBytes),
    secondsPerRound: mean((run) => run.secondsPerRound),
    secondsOnLink: Object.fromEntries(
      networkLinks.map(({ name }, i) => [name, mean((run) => run.secondsOnLink[i] ?? 0)]),
    ),
    ...(known.length === runs.length ? { estimatedJoulesPerDeviceRound: meanOf(known) } : {}),
    perSeed: runs,
  };
}
