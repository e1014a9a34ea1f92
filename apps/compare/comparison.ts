// What a comparison is made of and what it yields: the words of compare.json.
import type { Score } from "./score.ts";
import type { Estimate } from "./statistics.ts";

/** A way to train one model: one framework for every device, or a mix of them. */
export type Framework = (typeof frameworks)[number];

/** All of them, in the order of reports. */
export const frameworks = ["full", "kd", "split", "mixed"] as const;

/** A value of a swept option. */
export type OptionValue = string | number | boolean;

/** What one federation differs in from the others. */
export interface Configuration {
  readonly framework: Framework;
  /** Swept options by the name they were swept under. */
  readonly options: Readonly<Record<string, OptionValue>>;
}

/** A network that seconds are computed for. */
export interface NetworkLink {
  readonly name: string;
  readonly bitsPerSecond: number;
  readonly roundTripSeconds: number;
}

/** The links of the report. The round trip is that of a mobile network. */
export const networkLinks: readonly NetworkLink[] = [
  { name: "1 Mbit/s", bitsPerSecond: 1e6, roundTripSeconds: 0.05 },
  { name: "10 Mbit/s", bitsPerSecond: 10e6, roundTripSeconds: 0.05 },
];

/** One round of one federation; figures of devices are means over those that took part. */
export interface RoundFigures {
  readonly round: number;
  /** Accuracy 0..1 or perplexity of the global model on the test set. */
  readonly score: number;
  /** Devices whose work was folded in. */
  readonly devices: number;
  /** Wall seconds on the machine that ran the comparison. */
  readonly seconds: number;
  readonly uplinkBytes: number;
  readonly downlinkBytes: number;
  readonly rawUplinkBytes: number;
  readonly rawDownlinkBytes: number;
  readonly flops: number;
  /** Highest of the devices, above the idle process. */
  readonly peakMemoryBytes: number;
  /** Computed, in the order of `networkLinks`. */
  readonly secondsOnLink: readonly number[];
  /** Estimated from declared board figures, never measured; absent when a board has none. */
  readonly estimatedJoules?: number;
}

/** One federation: a configuration under one seed. */
export interface SeedFigures {
  readonly seed: number;
  readonly runFolder: string;
  /** After the last round. */
  readonly score: number;
  readonly rounds: readonly RoundFigures[];
  /** Framework of each device by id. */
  readonly devices: Readonly<Record<string, string>>;
  /** Mean over devices and rounds. */
  readonly uplinkBytesPerDeviceRound: number;
  readonly downlinkBytesPerDeviceRound: number;
  readonly rawBytesPerDeviceRound: number;
  readonly flopsPerDeviceRound: number;
  /** Highest of all devices and rounds. */
  readonly peakMemoryBytes: number;
  readonly secondsPerRound: number;
  /** Seconds of all rounds, in the order of `networkLinks`. */
  readonly secondsOnLink: readonly number[];
  readonly estimatedJoulesPerDeviceRound?: number;
}

/** A configuration over its seeds. */
export interface ConfigurationFigures extends Configuration {
  /** The seeds that were run. */
  readonly seeds: readonly number[];
  /** Of the global model after the last round; absent for language models. */
  readonly accuracy?: Estimate;
  /** The same of a language model. */
  readonly perplexity?: Estimate;
  /** This score less the best configuration's, paired by seed; absent for the best one. */
  readonly differenceToBest?: Estimate;
  /** Means over seeds, devices and rounds. */
  readonly uplinkBytesPerDeviceRound: number;
  readonly downlinkBytesPerDeviceRound: number;
  /** Both directions: the same messages in float32, neither narrowed nor padded. */
  readonly rawBytesPerDeviceRound: number;
  readonly flopsPerDeviceRound: number;
  /** Highest of all devices and rounds, above the idle process; the mean over seeds. */
  readonly peakMemoryBytes: number;
  /** Wall seconds of the machine that ran the comparison. */
  readonly secondsPerRound: number;
  /** Computed seconds of all rounds by link. */
  readonly secondsOnLink: Readonly<Record<string, number>>;
  readonly estimatedJoulesPerDeviceRound?: number;
  readonly perSeed: readonly SeedFigures[];
}

/** What the federations are compared with, over the seeds; as many examples seen. */
export interface BaselineFigures {
  /** "centralised", "best device alone", "devices alone, mean" or "untrained". */
  readonly name: string;
  readonly accuracy?: Estimate;
  readonly perplexity?: Estimate;
  /** By the order of `seeds`. */
  readonly scores: readonly number[];
}

/** Which configuration is best at one thing. */
export interface Verdict {
  readonly constraint: string;
  /** Label of the best configuration. */
  readonly best: string;
  readonly runnerUp?: string;
  /** Best less runner-up, paired by seed; in the unit of the figure. */
  readonly difference?: Estimate;
  /** Whether the seeds tell the two apart; false with one seed. */
  readonly isSeparated: boolean;
  /** For people. */
  readonly text: string;
}

/** What the comparison was made of. */
export interface ComparisonTask {
  readonly name: string;
  readonly metric: Score["metric"];
  readonly seeds: readonly number[];
  readonly devices: number;
  /** How the data is dealt to the devices: "iid" or "dirichlet 0.5". */
  readonly partition: string;
  /** Share of the most frequent class in the test set; absent for language models. */
  readonly majority?: number;
  /** The settings as the file gives them, sweeps not applied. */
  readonly settings: Readonly<Record<string, unknown>>;
}

/** compare.json. */
export interface ComparisonResult {
  readonly task: ComparisonTask;
  readonly configurations: readonly ConfigurationFigures[];
  readonly baselines: readonly BaselineFigures[];
  readonly verdicts: readonly Verdict[];
  /** What computed all seconds. */
  readonly machine: string;
  readonly version: string;
  readonly date: string;
}

/** "full", "full rank=4". */
export function labelOf({ framework, options }: Configuration): string {
  const parts = Object.entries(options).map(([name, value]) => `${name}=${value}`);
  return [framework, ...parts].join(" ");
}
