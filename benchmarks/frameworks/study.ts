// One comparison of the suite: what is run, and the rows that are read from it.
import type {
  ComparisonResult,
  Configuration,
  ConfigurationFigures,
  SeedFigures,
} from "../../apps/compare/comparison.ts";
import type { ComparisonPlan } from "../../apps/compare/plan.ts";
import { estimateOf } from "../../apps/compare/statistics.ts";
import type { Bound, Row } from "../row.ts";

/** A comparison and what is read from it. */
export interface Study {
  /** Folder of its runs. */
  readonly name: string;
  readonly plan: ComparisonPlan;
  readonly withBaselines?: boolean;
  readonly rows: (result: ComparisonResult) => readonly Row[];
}

/** A study whose texts are not at hand, and its promised rows without values. */
export interface MissingStudy {
  readonly name: string;
  readonly missing: readonly Row[];
}

/** Repeats every row of the suite. */
export const command = "npm run bench -- frameworks";

/** Figures of a configuration; it must be among the study's. */
export function figuresOf(
  { configurations }: ComparisonResult,
  { framework, options }: Configuration,
): ConfigurationFigures {
  const found = configurations.find(
    (one) => one.framework === framework && JSON.stringify(one.options) === JSON.stringify(options),
  );
  if (!found) throw new Error(`the study has no ${framework} ${JSON.stringify(options)}`);
  return found;
}

/** Which bytes of a device are compared. */
export type Direction = "up" | "down" | "both";

/** What a narrowed configuration is compared with, and what it must reach. */
export interface Saving {
  readonly figure: string;
  readonly direction: Direction;
  readonly reference: ConfigurationFigures;
  readonly narrowed: ConfigurationFigures;
  /** Most percent of the reference's bytes. */
  readonly mostBytes: number;
  /** Most points of accuracy, or percent of perplexity, that may be lost. */
  readonly mostLoss: number;
}

/** Two rows: the share of the bytes of all rounds, and what was lost for it, paired by seed. */
export function savingRows(saving: Saving): readonly Row[] {
  const { figure, direction, reference, narrowed, mostBytes, mostLoss } = saving;
  const shares = packetShares(reference, narrowed, direction);
  return [
    row(`${figure}: bytes`, "% of float32", shares, { relation: "<=", limit: mostBytes }),
    lossRow(`${figure}: lost`, reference, narrowed, mostLoss),
  ];
}

/** Percent of the reference's packets that the narrowed runs' take, by seed. */
export function packetShares(
  reference: ConfigurationFigures,
  narrowed: ConfigurationFigures,
  direction: Direction = "both",
): readonly number[] {
  return narrowed.perSeed.map(
    (run, i) =>
      (100 * bytesOf(run, direction)) / bytesOf(reference.perSeed[i] as SeedFigures, direction),
  );
}

/**
 * The share of the bytes of all rounds, both ways, in those of the same messages in plain float32, without headers: what
 * the packets of a float32 run take besides depends on how well its values deflate.
 */
export function rawShareRow(
  figure: string,
  { perSeed }: ConfigurationFigures,
  mostBytes: number,
): Row {
  const shares = perSeed.map((run) => (100 * bytesOf(run, "both")) / rawBytesOf(run));
  return row(figure, "% of raw float32", shares, { relation: "<=", limit: mostBytes });
}

/** The rows of `savingRows` where they cannot be measured. */
export function missingSaving(
  { figure, mostBytes, mostLoss }: Pick<Saving, "figure" | "mostBytes" | "mostLoss">,
  reason: string,
): readonly Row[] {
  const known = { value: undefined, spread: 0, command: `${command} --data DIR`, reason };
  return [
    {
      figure: `${figure}: bytes`,
      unit: "% of float32",
      mustReach: { relation: "<=", limit: mostBytes },
      ...known,
    },
    {
      figure: `${figure}: lost`,
      unit: "points",
      mustReach: { relation: "<=", limit: mostLoss },
      ...known,
    },
  ];
}

/** What `narrowed` is worse by, paired by seed: points of accuracy, or percent of perplexity. */
export function lossRow(
  figure: string,
  reference: ConfigurationFigures,
  narrowed: ConfigurationFigures,
  mostLoss: number,
): Row {
  const isAccuracy = reference.accuracy !== undefined;
  const losses = narrowed.perSeed.map(({ score }, i) => {
    const before = reference.perSeed[i]?.score ?? Number.NaN;
    return isAccuracy ? 100 * (before - score) : 100 * (score / before - 1);
  });
  const unit = isAccuracy ? "points" : "% perplexity";
  return row(figure, unit, losses, { relation: "<=", limit: mostLoss });
}

/** The mean over the seeds, with the half-width of its 95% interval as spread. */
export function row(
  figure: string,
  unit: string,
  values: readonly number[],
  mustReach?: Bound,
): Row {
  const { mean, interval95 } = estimateOf(values);
  const spread = interval95 === null ? 0 : (interval95.high - interval95.low) / 2;
  return { figure, value: mean, unit, spread, command, ...(mustReach && { mustReach }) };
}

/** The mean accuracy over the seeds. */
export function accuracyRow(figure: string, runs: readonly { readonly score: number }[]): Row {
  return row(
    `${figure}: accuracy`,
    "%",
    runs.map(({ score }) => 100 * score),
  );
}

function rawBytesOf({ rounds }: SeedFigures): number {
  return rounds.reduce((sum, { rawUplinkBytes, rawDownlinkBytes, devices }) => {
    return sum + devices * (rawUplinkBytes + rawDownlinkBytes);
  }, 0);
}

/** Bytes of all devices and rounds. */
function bytesOf({ rounds }: SeedFigures, direction: Direction): number {
  return rounds.reduce((sum, { uplinkBytes, downlinkBytes, devices }) => {
    const up = direction === "down" ? 0 : uplinkBytes;
    const down = direction === "up" ? 0 : downlinkBytes;
    return sum + devices * (up + down);
  }, 0);
}
