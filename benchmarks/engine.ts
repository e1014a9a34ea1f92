// Suite `engine`: a training step of GPT-2 124M shapes against its own loss, and the memory it takes. The weights
// are random: time and memory do not depend on them.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runProbe } from "./engine-probe.ts";
import { type Row, summarise } from "./row.ts";

const command = "npm run bench -- engine";

/** Measures both heads, each in processes of its own; takes about two minutes and 1 GB of temporary files. */
export async function engineRows(log: (message: string) => void): Promise<readonly Row[]> {
  const folder = await mkdtemp(join(tmpdir(), "trifold-bench-"));
  const rows: Row[] = [];
  try {
    log("writing random GPT-2 124M weights ...");
    await runProbe({ kind: "weights", folder });
    for (const head of ["lm", "classification"] as const) {
      log(`${titles[head]}: loss and step ...`);
      rows.push(
        ...timeRows(
          titles[head],
          ratioLimits[head],
          await runProbe({ kind: "time", folder, head }),
        ),
      );
      log(`${titles[head]}: peak memory ...`);
      const { peakBytes } = await runProbe({ kind: "memory", folder, head });
      rows.push({
        figure: `${titles[head]}: peak resident memory of a training process`,
        value: peakBytes / 2 ** 20,
        unit: "MiB",
        spread: 0,
        command,
        ...(head === "classification" ? { mustReach: { relation: "<=", limit: 650 } } : {}),
      });
    }
    return rows;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const titles = { lm: "lm head", classification: "77-class head" } as const;
const ratioLimits = { lm: 2.1, classification: 2 } as const;

/** What the time probe found, milliseconds of single runs in order; loss and step take turns. */
export interface EngineTimes {
  readonly loadMs: number;
  readonly lossMs: readonly number[];
  readonly stepMs: readonly number[];
  readonly stepFlops: number;
  readonly tokens: number;
}

function timeRows(title: string, limit: number, times: EngineTimes): readonly Row[] {
  const { loadMs, lossMs, stepMs, stepFlops, tokens } = times;
  const loss = summarise(lossMs);
  const step = summarise(stepMs);
  // Whatever else the machine does only ever adds time, so the fastest runs are the truest; the spread is that
  // of neighbours in time.
  const ratio = fastest(stepMs) / fastest(lossMs);
  const { spread } = summarise(stepMs.map((ms, i) => ms / (lossMs[i] as number)));
  const row = (figure: string, value: number, unit: string, spread: number): Row => {
    return { figure: `${title}: ${figure}`, value, unit, spread, command };
  };
  return [
    row("load of the step", loadMs, "ms", 0),
    row("loss only", loss.median, "ms", loss.spread),
    row("training step", step.median, "ms", step.spread),
    {
      ...row("step / loss, fastest runs", ratio, "ratio", spread),
      mustReach: { relation: "<=", limit },
    },
    row("training", (1000 * tokens) / step.median, "tokens/s", 0),
    row("matrix products of the step", stepFlops / step.median / 1e6, "GFLOP/s", 0),
  ];
}

/** Mean of the three smallest values. */
function fastest(values: readonly number[]): number {
  const three = values.toSorted((a, b) => a - b).slice(0, 3);
  return three.reduce((sum, value) => sum + value, 0) / three.length;
}
