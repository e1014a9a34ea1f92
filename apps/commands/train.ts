// `trifold train`: an adapter from a person's own table, on one machine.
import { type Command, Option } from "commander";
import { formatQuantity } from "../../devices/index.ts";
import type {
  OptimizerKind,
  PrefixCacheReport,
  ProviderChoice,
  ScheduleKind,
} from "../../runtime/index.ts";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import { exitStatus } from "../failure.ts";
import { interruptSignal } from "../interrupt.ts";
import { embeddedModelFolder } from "../package-root.ts";
import type { TrainingOptions, TrainingReport } from "../train/options.ts";
import {
  byteQuantity,
  type ExecutionFlags,
  examples,
  executionOf,
  executionOptions,
  fraction,
  nameList,
  nonNegativeNumber,
  numberList,
  positiveNumber,
  providerOption,
  wholeNumber,
} from "./option-values.ts";

interface TrainFlags extends ExecutionFlags {
  readonly model?: string;
  readonly data: string;
  readonly textColumn: string;
  readonly labelColumn: string;
  readonly head: "classification" | "lm";
  readonly rank: number;
  readonly alpha?: number;
  readonly targets?: readonly string[];
  readonly layers?: readonly number[];
  readonly dropout: number;
  readonly rsLora?: boolean;
  readonly optimizer: OptimizerKind;
  readonly weightDecay: number;
  readonly steps?: number;
  readonly epochs: number;
  readonly batchSize: number;
  readonly accumulate: number;
  readonly sequenceLength?: number;
  readonly learningRate: number;
  readonly warmUp: number;
  readonly schedule: ScheduleKind;
  readonly labelSmoothing: number;
  readonly maxGradientNorm: number;
  readonly seed: number;
  readonly holdOut: number;
  readonly out: string;
  readonly checkpointEvery: number;
  readonly resume?: boolean;
  readonly threads?: number;
  readonly provider?: ProviderChoice;
  readonly cachePrefix?: number;
  readonly cachePrefixFolder?: string;
  readonly json?: boolean;
}

/** Registers `train`. Ctrl-C saves what is trained so far (status 130). */
export function trainCommand(program: Command): void {
  const command = program
    .command("train")
    .summary("train an adapter on your own CSV, on this machine alone")
    .description(
      "Trains a LoRA adapter, and a classification head unless --head lm, on a CSV file and saves them in the PEFT\nformat. Ctrl-C saves what is trained so far; --resume goes on from there.",
    )
    .requiredOption("--data <file>", "CSV file with a header row")
    .option("--text-column <name>", "column of the texts", "text")
    .option("--label-column <name>", "column of the labels", "label")
    .option("--model <folder>", "Hugging Face model folder (default: the embedded model)");
  const groups = [adapterOptions(), learningOptions(), executionOptions(), prefixCacheOptions()];
  for (const option of groups.flat()) command.addOption(option);
  command
    .option("--seed <n>", "equal seeds give equal adapters", wholeNumber(0), 1)
    .option("--hold-out <fraction>", "share of the rows to score on", fraction, 0.2)
    .option("--out <folder>", "folder of the adapter", "adapter")
    .option("--checkpoint-every <n>", "steps from one checkpoint to the next", wholeNumber(1), 100)
    .option("--resume", "go on from the checkpoint in --out, with the same numbers")
    .option("--threads <n>", "threads of one operator (default: all processors)", wholeNumber(1))
    .addOption(providerOption())
    .option("--json", "print one JSON document")
    .addHelpText(
      "after",
      examples(
        "train --data mails.csv --text-column body --label-column folder",
        "train --model ./gpt2 --data banking.csv --epochs 2 --learning-rate 5e-4 --out ./banking",
        "train --model ./gpt2 --data banking.csv --memory 400MB",
        "train --model ./gpt2 --data banking.csv --layers 10,11 --cache-prefix 300MB",
        "train --data stories.csv --head lm --targets all-linear --dropout 0.1 --out ./stories",
      ),
    )
    .action(run);
}

function adapterOptions(): Option[] {
  return [
    choice("--head <kind>", "what is learned: labels, or the next token", ["classification", "lm"]),
    parsed("--rank <n>", "rank of the adapter", wholeNumber(1), 8),
    parsed("--alpha <x>", "scale of the adapter (default: twice the rank)", positiveNumber),
    parsed(
      "--targets <names>",
      "modules with an adapter (default: as PEFT for the model)",
      nameList,
    ),
    parsed("--layers <numbers>", "blocks with an adapter, from 0 (default: all)", numberList),
    parsed("--dropout <p>", "probability to drop an input of an adapter", fraction, 0),
    new Option("--rs-lora", "scale by alpha / sqrt(rank) in place of alpha / rank"),
  ];
}

function learningOptions(): Option[] {
  return [
    parsed("--epochs <n>", "times every example is seen", wholeNumber(1), 3),
    parsed("--steps <n>", "optimizer steps, in place of epochs", wholeNumber(1)),
    parsed("--batch-size <n>", "examples of a batch", wholeNumber(1), 16),
    parsed("--accumulate <n>", "batches of a step", wholeNumber(1), 1),
    parsed("--sequence-length <n>", "tokens a text is cut to (default: 96)", wholeNumber(1)),
    choice("--optimizer <name>", "how gradients become steps", ["adamw", "sgd"]),
    parsed("--weight-decay <x>", "how fast parameters shrink", nonNegativeNumber, 0),
    parsed("--learning-rate <x>", "largest rate", positiveNumber, 3e-3),
    parsed("--warm-up <n>", "steps in which the rate rises", wholeNumber(0), 0),
    choice("--schedule <name>", "how the rate goes on; it falls to a tenth", [
      "linear",
      "cosine",
      "constant",
    ]),
    parsed("--label-smoothing <share>", "share of the target given to all classes", fraction, 0),
    parsed("--max-gradient-norm <x>", "larger gradients are scaled down", positiveNumber, 1),
  ];
}

function prefixCacheOptions(): Option[] {
  const memory = "keep what leaves the blocks below --layers in so much memory, such as 200MB";
  return [
    parsed("--cache-prefix <size>", memory, byteQuantity),
    new Option("--cache-prefix-folder <folder>", "keep there what memory has no room for"),
  ];
}

/** The first of the choices is the default. */
function choice(flags: string, description: string, choices: readonly string[]): Option {
  return new Option(flags, description).choices(choices).default(choices[0]);
}

function parsed<T>(
  flags: string,
  description: string,
  parse: (text: string) => T,
  fallback?: T,
): Option {
  const option = new Option(flags, description).argParser(parse);
  return fallback === undefined ? option : option.default(fallback);
}

async function run({ holdOut, json, provider, ...flags }: TrainFlags): Promise<void> {
  const { trainAdapter } = await import("../train/training.ts");
  const { createProgress } = await import("../progress.ts");
  const { engineProviders } = await import("../providers.ts");
  const { signal, close } = interruptSignal();
  const ends = [close];
  try {
    const report = await trainAdapter({
      ...flags,
      model: flags.model ?? embeddedModelFolder(),
      lora: loraOf(flags),
      holdOutFraction: holdOut,
      resume: flags.resume ?? false,
      execution: executionOf(flags),
      ...prefixCacheOf(flags),
      providers: await engineProviders(provider, log),
      cacheFolder: defaultCacheFolder(),
      signal,
      log,
      onStart: ({ steps: total, firstStep: before }) => {
        const progress = createProgress({ total, before, stream: process.stderr });
        ends.push(() => progress.close());
        return ({ step, ...state }) => progress.update(step, state);
      },
    });
    for (const end of ends.splice(0)) end();
    await printResult({ json: report, text: reportText(report) }, json ? { json } : {});
    if (report.interrupted) process.exitCode = exitStatus.interrupted;
  } finally {
    for (const end of ends) end();
  }
}

function prefixCacheOf({ cachePrefix: memoryBytes, cachePrefixFolder: folder }: PrefixFlags) {
  if (memoryBytes === undefined && folder === undefined) return {};
  return { prefixCache: { memoryBytes: memoryBytes ?? 0, ...(folder && { folder }) } };
}

type PrefixFlags = Pick<TrainFlags, "cachePrefix" | "cachePrefixFolder">;

function loraOf({
  rank,
  alpha,
  targets,
  dropout,
  rsLora,
  layers,
}: Omit<TrainFlags, "holdOut">): TrainingOptions["lora"] {
  return {
    ...{ rank, alpha: alpha ?? 2 * rank, dropout },
    ...(targets ? { targets } : {}),
    ...(rsLora ? { rsLora } : {}),
    ...(layers ? { layers } : {}),
  };
}

function reportText(report: TrainingReport): string {
  const { adapter, labels, steps, loss, seconds, interrupted, padding } = report;
  const { accuracy, macroF1, majority = 0, perplexity } = report;
  const held = `on ${report.holdOutExamples} held-out examples`;
  const what = labels.length > 0 ? ` of ${labels.length} labels` : "";
  const share = (part: number) => `${(100 * part).toFixed(0)} %`;
  const lines = [
    `${interrupted ? "interrupted after" : "trained"} ${steps} steps on ${report.trainExamples} examples${what} in ${seconds.toFixed(1)} s, mean loss ${loss.toFixed(3)}`,
    `padding ${share(padding.bucketed)} of the computed tokens, ${share(padding.plain)} without batches of like length`,
  ];
  if (accuracy !== undefined && macroF1 !== undefined) {
    lines.push(
      `accuracy ${accuracy.toFixed(3)}, macro F1 ${macroF1.toFixed(3)} ${held} (largest class ${majority.toFixed(3)})`,
    );
  }
  if (perplexity !== undefined) lines.push(`perplexity ${perplexity.toFixed(1)} ${held}`);
  if (report.prefixCache !== undefined) lines.push(prefixText(report.prefixCache));
  lines.push(`adapter saved in ${adapter}${interrupted ? "; --resume goes on" : ""}`);
  return lines.join("\n");
}

/** What the cache saved: the mean time of a computed prefix less that of one that was found, as often as it was found. */
function prefixText(reports: readonly PrefixCacheReport[]): string {
  const sum = (read: (report: PrefixCacheReport) => number) =>
    reports.reduce((total, report) => total + read(report), 0);
  const savedMs = sum(({ cachedMs, computedMs, cachedBatches }) =>
    cachedMs === undefined || computedMs === undefined
      ? 0
      : cachedBatches * (computedMs - cachedMs),
  );
  const rows = sum(({ hits, misses }) => hits + misses);
  const bytes = formatQuantity(
    sum(({ memoryBytes, fileBytes }) => memoryBytes + fileBytes),
    "bytes",
  );
  return `prefix cache: ${sum(({ hits }) => hits)} of ${rows} rows found, ${bytes} kept, about ${(savedMs / 1000).toFixed(1)} s saved`;
}
