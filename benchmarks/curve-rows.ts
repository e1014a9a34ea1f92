// Rows without a promise: how time and memory of a step grow with its batch and its sequence.
import { askBench } from "../apps/bench/probe.ts";
import type { Row } from "./row.ts";
import { headTitles, measuredRow as row, type Suite } from "./suite.ts";

/** A few steps of each size, each in a process of its own. */
export async function curveRows({ workload, log }: Suite): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const [batch, sequence] of sizes) {
    const size = `${batch} x ${sequence} tokens`;
    log(`${size} ...`);
    const question = { ...workload("classification"), batch, sequence };
    const { stepMs, peakBytes } = await askBench("training", { workload: question, steps: 4 });
    const figure = `${headTitles.classification}, ${size}`;
    rows.push(
      row(`${figure}: training step with its optimizer`, "ms", stepMs),
      row(`${figure}: peak resident memory`, "MiB", [peakBytes / 2 ** 20]),
    );
  }
  return rows;
}

/** Batch and sequence. */
const sizes: readonly (readonly [number, number])[] = [
  ...([64, 128, 256, 512] as const).map((sequence) => [4, sequence] as const),
  ...([1, 2, 8, 16] as const).map((batch) => [batch, 64] as const),
];
