// `trifold generate`: text from a language model, with an adapter or without one.
import type { Command } from "commander";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import { interruptSignal } from "../interrupt.ts";
import { embeddedModelFolder } from "../package-root.ts";
import { examples, nonNegativeNumber, shareOfOne, wholeNumber } from "./option-values.ts";

interface GenerateFlags {
  readonly model?: string;
  readonly adapter?: string;
  readonly prompt: string;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly seed: number;
  readonly threads?: number;
  readonly json?: boolean;
}

/** Registers `generate`. */
export function generateCommand(program: Command): void {
  program
    .command("generate")
    .summary("let a language model go on from a text")
    .description(
      "Prints a text and how the model goes on, token by token. The most probable token is taken unless there is a\ntemperature. It ends at the model's end token, at --max-tokens, or where the model can see no further.",
    )
    .option("--model <folder>", "Hugging Face model folder (default: the embedded model)")
    .option("--adapter <folder>", "adapter folder of a language model")
    .option("--prompt <text>", "text to go on from", "")
    .option("--max-tokens <n>", "tokens to generate at most", wholeNumber(1), 100)
    .option("--temperature <x>", "0 takes the most probable token", nonNegativeNumber, 0)
    .option("--top-k <n>", "draw among so many of the most probable", wholeNumber(1))
    .option("--top-p <share>", "draw among the most probable that have this share", shareOfOne)
    .option("--seed <n>", "equal seeds draw equal tokens", wholeNumber(0), 1)
    .option("--threads <n>", "threads of one operator (default: all processors)", wholeNumber(1))
    .option("--json", "print one JSON document at the end")
    .addHelpText(
      "after",
      examples(
        'generate --prompt "The Congress of the United States"',
        'generate --model ./gpt2 --adapter ./stories --prompt "Once" --temperature 0.8 --top-p 0.9',
      ),
    )
    .action(run);
}

async function run({ temperature, topK, topP, seed, json, ...flags }: GenerateFlags) {
  const { generateText } = await import("../train/generation.ts");
  const { signal, close } = interruptSignal();
  const limits = {
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
  };
  let isFirst = true;
  try {
    const report = await generateText({
      ...flags,
      model: flags.model ?? embeddedModelFolder(),
      sampling: { temperature, seed, ...limits },
      cacheFolder: defaultCacheFolder(),
      signal,
      log,
      onText: (part) => {
        if (json) return;
        // Behind what may be refused, so that standard output holds nothing then.
        if (isFirst) process.stdout.write(flags.prompt);
        isFirst = false;
        process.stdout.write(part);
      },
    });
    // The text is there already; the result ends its line.
    const text = isFirst ? report.prompt : "";
    await printResult({ json: report, text }, json ? { json } : {});
  } finally {
    close();
  }
}
