// `trifold compare`: the frameworks side by side, on one task, each as a federation of its own.
import type { Command } from "commander";
import { defaultCacheFolder } from "../cache-folder.ts";
import { printResult } from "../command-result.ts";
import type { Sweep } from "../compare/sweep.ts";
import { interruptSignal } from "../interrupt.ts";
import { examples, wholeNumber } from "./option-values.ts";

interface Flags {
  readonly task: string;
  readonly out: string;
  readonly frameworks?: string;
  readonly sweep: readonly string[];
  readonly seeds?: number;
  readonly devices?: number;
  readonly baselines: boolean;
  readonly json?: boolean;
}

/** Registers `compare`. */
export function compareCommand(program: Command): void {
  program
    .command("compare")
    .summary("compare full, kd, split and mixed federations on one task")
    .description(
      "Runs each configuration as a federation of its own: broker and coordinator here, each device a process. Writes\ncompare.json, compare.csv and a report with plots. The same command goes on after any stop.",
    )
    .requiredOption("--task <file>", "comparison file (YAML); docs/compare.md shows every field")
    .option("--out <folder>", "folder of all runs and of the report", "compare")
    .option("--frameworks <names>", "of full, kd, split, mixed (default: the file's)")
    .option(
      "--sweep <name=values>",
      "values of one option, such as rank=2,4,8; again for more options",
      (text: string, before: readonly string[]) => [...before, text],
      [],
    )
    .option("--seeds <n>", "runs of each configuration (default: the file's)", wholeNumber(1))
    .option("--devices <n>", "devices (default: the file's)", wholeNumber(1))
    .option("--no-baselines", "leave out centralised, each device alone and untrained")
    .option("--json", "print compare.json at the end")
    .addHelpText(
      "after",
      examples(
        "compare --task examples/compare-small.yaml",
        "compare --task mails.yaml --frameworks full,kd --sweep rank=2,4,8 --seeds 3",
        "compare --task mails.yaml --sweep cut=1,2,3 --sweep publicSize=100,500",
      ),
    )
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  const { readComparison } = await import("../compare/comparison-file.ts");
  const { runComparison } = await import("../compare/run-comparison.ts");
  const { createComparisonScreen } = await import("../compare/screen.ts");
  const { writeComparison } = await import("../compare/write-comparison.ts");
  const { comparisonText } = await import("../compare/comparison-text.ts");
  const plan = await readComparison(flags.task, await overridesOf(flags));
  const { signal, close } = interruptSignal();
  const screen = createComparisonScreen(process.stderr);
  try {
    const result = await runComparison({
      ...plan,
      out: flags.out,
      withBaselines: flags.baselines,
      cacheFolder: defaultCacheFolder(),
      signal,
      onProgress: screen.progress,
    });
    screen.close();
    const files = await writeComparison(flags.out, result);
    const text = comparisonText(result, files);
    await printResult({ json: result, text }, flags.json ? { json: true } : {});
  } finally {
    screen.close();
    close();
  }
}

async function overridesOf({ frameworks, sweep, seeds, devices }: Flags) {
  const { parseFrameworks, parseSweep } = await import("../compare/sweep.ts");
  const swept: Sweep = Object.assign({}, ...sweep.map(parseSweep));
  return {
    ...(frameworks === undefined ? {} : { frameworks: parseFrameworks(frameworks) }),
    sweep: swept,
    ...(seeds === undefined ? {} : { seeds }),
    ...(devices === undefined ? {} : { devices }),
  };
}
