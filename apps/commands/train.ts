// `trifold train`: an adapter from a person's own table, on one machine.
import type { Command } from "commander";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import { exitStatus } from "../failure.ts";
import { interruptSignal } from "../interrupt.ts";
import { embeddedModelFolder } from "../package-root.ts";
import type { TrainingReport } from "../train/training.ts";
import { examples, fraction, nameList, positiveNumber, wholeNumber } from "./option-values.ts";

interface TrainFlags {
  readonly model?: string;
  readonly data: string;
  readonly textColumn: string;
  readonly labelColumn: string;
  readonly rank: number;
  readonly alpha?: number;
  readonly targets: readonly string[];
  readonly steps?: number;
  readonly epochs: number;
  readonly batchSize: number;
  readonly sequenceLength?: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly holdOut: number;
  readonly out: string;
  readonly threads?: number;
  readonly json?: boolean;
}

/** Registers `train`. Ctrl-C saves what is trained so far (status 130). */
export function trainCommand(program: Command): void {
  program
    .command("train")
    .summary("train an adapter on your own CSV, on this machine alone")
    .description(
      "Trains a LoRA adapter and a classification head on a CSV file and saves them in the PEFT format.\nCtrl-C saves what is trained so far.",
    )
    .requiredOption("--data <file>", "CSV file with a header row")
    .option("--text-column <name>", "column of the texts", "text")
    .option("--label-column <name>", "column of the labels", "label")
    .option("--model <folder>", "Hugging Face model folder (default: the embedded model)")
    .option("--rank <n>", "rank of the adapter", wholeNumber(1), 8)
    .option("--alpha <x>", "scale of the adapter (default: twice the rank)", positiveNumber)
    .option("--targets <names>", "modules with an adapter, as PEFT matches them", nameList, [
      "c_attn",
    ])
    .option("--epochs <n>", "times every example is seen", wholeNumber(1), 3)
    .option("--steps <n>", "optimizer steps, in place of epochs", wholeNumber(1))
    .option("--batch-size <n>", "examples of a step", wholeNumber(1), 16)
    .option("--sequence-length <n>", "tokens a text is cut to (default: 96)", wholeNumber(1))
    .option("--learning-rate <x>", "first rate; falls to a tenth", positiveNumber, 3e-3)
    .option("--seed <n>", "equal seeds give equal adapters", wholeNumber(0), 1)
    .option("--hold-out <fraction>", "share of the rows to score on", fraction, 0.2)
    .option("--out <folder>", "folder of the adapter", "adapter")
    .option("--threads <n>", "threads of one operator (default: all processors)", wholeNumber(1))
    .option("--json", "print one JSON document")
    .addHelpText(
      "after",
      examples(
        "train --data mails.csv --text-column body --label-column folder",
        "train --model ./gpt2 --data banking.csv --epochs 2 --learning-rate 5e-4 --out ./banking",
      ),
    )
    .action(run);
}

async function run({ holdOut, json, rank, alpha, targets, ...flags }: TrainFlags): Promise<void> {
  const { trainAdapter } = await import("../train/training.ts");
  const { createProgress } = await import("../progress.ts");
  const { signal, close } = interruptSignal();
  const ends = [close];
  try {
    const report = await trainAdapter({
      ...flags,
      model: flags.model ?? embeddedModelFolder(),
      lora: { rank, alpha: alpha ?? 2 * rank, targets },
      holdOutFraction: holdOut,
      cacheFolder: defaultCacheFolder(),
      signal,
      log,
      onStart: (total) => {
        const progress = createProgress({ total, stream: process.stderr });
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

function reportText(report: TrainingReport): string {
  const { adapter, labels, steps, loss, seconds, accuracy, macroF1, majority = 0 } = report;
  const rows = `${report.trainExamples} examples of ${labels.length} labels`;
  const lines = [
    `${report.interrupted ? "interrupted after" : "trained"} ${steps} steps on ${rows} in ${seconds.toFixed(1)} s, mean loss ${loss.toFixed(3)}`,
  ];
  if (accuracy !== undefined && macroF1 !== undefined) {
    lines.push(
      `accuracy ${accuracy.toFixed(3)}, macro F1 ${macroF1.toFixed(3)} on ${report.holdOutExamples} held-out examples (largest class ${majority.toFixed(3)})`,
    );
  }
  lines.push(`adapter saved in ${adapter}`);
  return lines.join("\n");
}
