// `trifold evaluate`: accuracy or perplexity of a model with an adapter.
import type { Command } from "commander";
import type { ProviderChoice } from "../../runtime/index.ts";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import { embeddedModelFolder } from "../package-root.ts";
import { examples, providerOption, wholeNumber } from "./option-values.ts";

interface EvaluateFlags {
  readonly model?: string;
  readonly adapter: string;
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
  program
    .command("evaluate")
    .summary("score an adapter on a CSV file")
    .description(
      "Scores a model with an adapter (PEFT format) on a CSV file: accuracy and macro F1 of a classifier,\nloss and perplexity of a language model.",
    )
    .requiredOption("--adapter <folder>", "adapter folder (adapter_config.json)")
    .requiredOption("--data <file>", "CSV file with a header row")
    .option("--text-column <name>", "column of the texts", "text")
    .option("--label-column <name>", "column of the labels", "label")
    .option("--model <folder>", "Hugging Face model folder (default: the embedded model)")
    .option("--batch-size <n>", "examples of a run", wholeNumber(1), 16)
    .option("--sequence-length <n>", "tokens a text is cut to (default: 96)", wholeNumber(1))
    .option("--threads <n>", "threads of one operator (default: all processors)", wholeNumber(1))
    .addOption(providerOption())
    .option("--json", "print {examples, accuracy, macroF1} or {tokens, loss, perplexity}")
    .addHelpText(
      "after",
      examples(
        "evaluate --adapter ./adapter --data test.csv",
        "evaluate --model ./gpt2 --adapter ./banking --data test.csv --text-column query --json",
      ),
    )
    .action(async ({ provider, ...flags }: EvaluateFlags) => {
      const { evaluateAdapter } = await import("../train/evaluation.ts");
      const { engineProviders } = await import("../providers.ts");
      const model = flags.model ?? embeddedModelFolder();
      const score = await evaluateAdapter({
        ...flags,
        model,
        cacheFolder: defaultCacheFolder(),
        providers: await engineProviders(provider, log),
        log,
      });
      const text =
        "accuracy" in score
          ? `accuracy ${score.accuracy.toFixed(3)}, macro F1 ${score.macroF1.toFixed(3)} on ${score.examples} examples`
          : `loss ${score.loss.toFixed(3)}, perplexity ${score.perplexity.toFixed(1)} over ${score.tokens} tokens`;
      await printResult({ json: score, text }, flags);
    });
}
