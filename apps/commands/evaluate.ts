// `trifold evaluate`: accuracy or perplexity of a model with an adapter.
import type { Command, Option } from "commander";
import type { LanguageScore, ProviderChoice } from "../../runtime/index.ts";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import { embeddedModelFolder } from "../package-root.ts";
import { textTable } from "../text-table.ts";
import type { AccuracyScore } from "../train/evaluation.ts";
import {
  type ExecutionFlags,
  examples,
  executionOf,
  executionOptions,
  providerOption,
  wholeNumber,
} from "./option-values.ts";

interface EvaluateFlags extends ExecutionFlags {
  readonly model?: string;
  readonly adapter?: string;
  readonly data: string;
  readonly textColumn: string;
  readonly labelColumn: string;
  readonly batchSize: number;
  readonly sequenceLength?: number;
  readonly threads?: number;
  readonly provider?: ProviderChoice;
  readonly json?: boolean;
}

/** Registers `evaluate`. */
export function evaluateCommand(program: Command): void {
  const [memory, mode] = executionOptions() as [Option, Option];
  program
    .command("evaluate")
    .summary("score an adapter or a language model on a CSV file")
    .description(
      "Scores a model with an adapter (PEFT format) on a CSV file: accuracy, macro F1 and confusion of a classifier,\nloss and perplexity of a language model. Without an adapter it is the model as a language model.",
    )
    .option("--adapter <folder>", "adapter folder (adapter_config.json)")
    .requiredOption("--data <file>", "CSV file with a header row")
    .option("--text-column <name>", "column of the texts", "text")
    .option("--label-column <name>", "column of the labels", "label")
    .option("--model <folder>", "Hugging Face model folder (default: the embedded model)")
    .option("--batch-size <n>", "examples of a run", wholeNumber(1), 16)
    .option("--sequence-length <n>", "tokens a text is cut to (default: 96)", wholeNumber(1))
    .option("--threads <n>", "threads of one operator (default: all processors)", wholeNumber(1))
    .addOption(memory)
    .addOption(mode)
    .addOption(providerOption())
    .option(
      "--json",
      "print {examples, accuracy, macroF1, confusion, labels} or {tokens, loss, perplexity}",
    )
    .addHelpText(
      "after",
      examples(
        "evaluate --adapter ./adapter --data test.csv",
        "evaluate --model ./gpt2 --adapter ./banking --data test.csv --text-column query --json",
        "evaluate --model ./gpt2 --data stories.csv",
      ),
    )
    .action(async ({ provider, ...flags }: EvaluateFlags) => {
      const { evaluateAdapter } = await import("../train/evaluation.ts");
      const { engineProviders } = await import("../providers.ts");
      const model = flags.model ?? embeddedModelFolder();
      const score = await evaluateAdapter({
        ...flags,
        model,
        execution: executionOf(flags),
        cacheFolder: defaultCacheFolder(),
        providers: await engineProviders(provider, log),
        log,
      });
      await printResult({ json: score, text: scoreText(score) }, flags);
    });
}

/** More columns fit no screen. */
const mostColumns = 10;

function scoreText(score: AccuracyScore | LanguageScore): string {
  if (!("accuracy" in score)) {
    const { loss, perplexity, tokens } = score;
    return `loss ${loss.toFixed(3)}, perplexity ${perplexity.toFixed(1)} over ${tokens} tokens`;
  }
  const { accuracy, macroF1, confusion, labels } = score;
  const line = `accuracy ${accuracy.toFixed(3)}, macro F1 ${macroF1.toFixed(3)} on ${score.examples} examples`;
  if (labels.length > mostColumns) return line;
  const rows = confusion.map((row, i) => [labels[i] as string, ...row.map(String)]);
  return `${line}\n\nlabel (row) and what it was taken for (column)\n${textTable(["", ...labels], rows, { right: labels.map((_, i) => i + 1) })}`;
}
