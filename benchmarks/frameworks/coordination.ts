// How much of a round is neither training nor transfer, as the coordinator noted it in each run folder.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { SeedFigures } from "../../apps/compare/comparison.ts";
import type { Row } from "../row.ts";
import { row } from "./study.ts";

/** Percent of the seconds of all rounds; a run's own share is one value. */
export function coordinationRow(figure: string, runs: readonly SeedFigures[]): Row {
  const shares = runs.map(({ runFolder }) => shareOf(runFolder));
  return row(figure, "% of a round", shares, { relation: "<=", limit: 10 });
}

function shareOf(runFolder: string): number {
  const lines = readFileSync(join(runFolder, "metrics.jsonl"), "utf8").trim().split("\n");
  const rounds = lines.map((line) => JSON.parse(line)).filter(({ kind }) => kind === "round");
  const sum = (name: string) => rounds.reduce((total, round) => total + Number(round[name]), 0);
  return (100 * sum("coordinationSeconds")) / sum("seconds");
}
