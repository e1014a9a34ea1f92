// `npm run bench -- SUITE [--json]`: the figures a suite promises, measured on this machine. Standard output
// carries results only; machine, date and progress go to standard error. Status 1 when a promise is missed.
import { availableParallelism, cpus, loadavg, totalmem } from "node:os";
import { parseArgs } from "node:util";
import { exitStatusOf, failureText } from "../apps/failure.ts";
import { textTable } from "../apps/text-table.ts";
import { engineRows } from "./engine.ts";
import { type FrameworksOptions, frameworksRows } from "./frameworks.ts";
import { pipelineRows } from "./pipeline.ts";
import { isReached, type Row, rowAsCells, rowsAsJson } from "./row.ts";
import { transportRows } from "./transport.ts";

/** Suites by name. */
const suites: Readonly<Record<string, (options: FrameworksOptions) => Promise<readonly Row[]>>> = {
  engine: ({ log: note }) => engineRows(note),
  frameworks: frameworksRows,
  pipeline: pipelineRows,
  transport: transportRows,
};

const log = (message: string) => void process.stderr.write(`${message}\n`);

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(failureText(error));
  process.exitCode = exitStatusOf(error);
}

async function main(): Promise<number> {
  const parsed = parse();
  const suite = suites[parsed?.positionals[0] ?? ""];
  if (parsed === undefined || suite === undefined) {
    log(`Usage: npm run bench -- SUITE [--json]; suites: ${Object.keys(suites).join(", ")}
transport takes as well: --only STUDY
frameworks takes as well: --data DIR (holds banking77/train.csv and test.csv), --seeds N (default 3),
  --only STUDY, --out DIR (keeps the runs, and goes on with them)`);
    return 2;
  }
  log(machineText());
  const [load = 0] = loadavg();
  if (load > 0.5) log(`The machine is busy (load ${load.toFixed(1)}): times will be too long.`);
  const { json: _, seeds = "3", ...chosen } = parsed.values;
  const rows = await suite({ ...chosen, seeds: Number(seeds), log });
  const head = ["figure", "value", "", "unit", "must reach", ""];
  const table = textTable(head, rows.map(rowAsCells), { right: [1, 2] });
  if (parsed.values.json) log(table);
  const output = parsed.values.json ? JSON.stringify(rowsAsJson(rows), undefined, 1) : table;
  process.stdout.write(`${output}\n`);
  return rows.some((row) => isReached(row) === false) ? 1 : 0;
}

function parse() {
  try {
    const text = { type: "string" } as const;
    const options = {
      json: { type: "boolean" } as const,
      data: text,
      seeds: text,
      only: text,
      out: text,
    };
    const parsed = parseArgs({ allowPositionals: true, options });
    const { seeds = "3" } = parsed.values;
    if (!/^[1-9][0-9]?$/.test(seeds)) throw new Error("--seeds must be a number from 1 to 99");
    return parsed;
  } catch (error) {
    log(error instanceof Error ? error.message : String(error));
    return undefined;
  }
}

function machineText(): string {
  const model = cpus()[0]?.model.trim() ?? "unknown processor";
  const gibibytes = (totalmem() / 2 ** 30).toFixed(1);
  const parts = [
    new Date().toISOString(),
    `${model}, ${availableParallelism()} threads, ${gibibytes} GiB`,
    `${process.platform} ${process.arch}, Node ${process.version}`,
  ];
  return parts.join("; ");
}
