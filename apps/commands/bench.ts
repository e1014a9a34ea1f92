// `trifold bench`: what a training step takes on this machine.
import { availableParallelism } from "node:os";
import { type Command, Option } from "commander";
import type { BenchReport } from "../bench/bench.ts";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import { interruptSignal } from "../interrupt.ts";
import {
  type ExecutionFlags,
  examples,
  executionOf,
  executionOptions,
  wholeNumber,
} from "./option-values.ts";

interface BenchFlags extends ExecutionFlags {
  readonly shape: string;
  readonly head: "lm" | "classification";
  readonly classes: number;
  readonly batch: number;
  readonly seq: number;
  readonly threads?: number;
  readonly cut?: number;
  readonly runs: number;
  readonly keep?: boolean;
  readonly json?: boolean;
}

/** Registers `bench`. */
export function benchCommand(program: Command): void {
  const [memory, mode] = executionOptions() as [Option, Option];
  program
    .command("bench")
    .summary("measure time and memory of a training step")
    .description(
      "Measures a step of LoRA training (rank 8 on the attention layers): time against the loss alone, and peak\nmemory against the estimate, each in a process of its own.",
    )
    .option("--shape <shape>", "gpt2-small (124M, random weights) or a model folder", "gpt2-small")
    .addOption(
      new Option("--head <head>", "what is trained on the model")
        .choices(["lm", "classification"])
        .default("classification"),
    )
    .option("--classes <n>", "classes of a classification head", wholeNumber(2), 77)
    .option("--batch <n>", "examples of a step", wholeNumber(1), 4)
    .option("--seq <n>", "tokens of an example", wholeNumber(1), 64)
    .option("--threads <n>", "threads of one operator (default: all processors)", wholeNumber(1))
    .addOption(memory)
    .addOption(mode)
    .option("--cut <n>", "measure a split client of this many blocks", wholeNumber(1))
    .option("--runs <n>", "times that each thing is timed", wholeNumber(1), 10)
    .option("--keep", "leave the random weights (0.75 GB) for the next run")
    .option("--json", "print one JSON document")
    .addHelpText(
      "after",
      examples("bench", "bench --head lm --keep --json", "bench --shape ./gpt2 --seq 128 --cut 2"),
    )
    .action(run);
}

async function run({ json, head, classes, seq, keep = false, ...flags }: BenchFlags) {
  const { bench } = await import("../bench/bench.ts");
  const { signal, close } = interruptSignal();
  try {
    const report = await bench({
      threads: availableParallelism(),
      ...flags,
      head: head === "lm" ? { kind: "lm" } : { kind: "classification", classes },
      sequence: seq,
      execution: executionOf(flags),
      keep,
      cacheFolder: defaultCacheFolder(),
      signal,
      log,
    });
    await printResult({ json: report, text: await reportText(report) }, json ? { json } : {});
  } finally {
    close();
  }
}

async function reportText(report: BenchReport): Promise<string> {
  const { textTable } = await import("../text-table.ts");
  const { formatQuantity } = await import("../../devices/index.ts");
  const { shape, head, batch, sequence, threads, mode, cut, fullStepMs, ratio } = report;
  const ms = (value: number) => `${value.toFixed(1)} ms`;
  const bytes = (value: number) => formatQuantity(value, "bytes");
  const steps =
    cut === undefined || fullStepMs === undefined
      ? [
          ["step", ms(report.stepMs)],
          ["step / loss only", ratio.toFixed(2)],
        ]
      : [
          ["whole step", ms(fullStepMs)],
          [`split client, cut ${cut}`, ms(report.stepMs)],
          ["client / whole step", ratio.toFixed(2)],
        ];
  const rows = [
    ["loss only", ms(report.lossOnlyMs)],
    ...steps,
    ["throughput", `${report.tokensPerSecond.toFixed(0)} tokens/s`],
    ["load", ms(report.loadMs)],
    ["peak memory", bytes(report.peakMemoryBytes)],
    ["estimated before", bytes(report.estimatedMemoryBytes)],
    ["matrix products", formatQuantity(report.gemmFlopsPerSecond, "flopsPerSecond")],
  ];
  const title = `${shape}, ${head} head, ${batch} x ${sequence} tokens, ${threads} ${threads === 1 ? "thread" : "threads"}, ${mode}`;
  return `${title}\n\n${textTable(["figure", "value"], rows, { right: [1] })}`;
}
