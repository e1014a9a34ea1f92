// The row on the event loop: what else a board does goes on while it trains.

import { askEngine } from "./engine-probe.ts";
import type { Row } from "./row.ts";
import { headTitles, measuredRow, type Suite } from "./suite.ts";

/** Longest stall of ten steps with their optimizer, in three processes. */
export async function stallRows({ workload, log }: Suite): Promise<readonly Row[]> {
  log("event loop while training ...");
  const stallsMs: number[] = [];
  for (let i = 0; i < 3; i++) {
    const question = { workload: workload("classification"), steps: 10 };
    stallsMs.push((await askEngine("stall", question)).longestStallMs);
  }
  const figure = `${headTitles.classification}: longest stall of the main thread while training`;
  return [{ ...measuredRow(figure, "ms", stallsMs), mustReach: { relation: "<=", limit: 50 } }];
}
