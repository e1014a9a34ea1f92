// `trifold profile`: what this machine or a catalogue board is, and which framework it would get.
import type { Command } from "commander";
import { defaultCacheFolder } from "../cache-folder.ts";
import { printResult } from "../command-result.ts";
import { interruptSignal } from "../interrupt.ts";
import { examples, wholeNumber } from "./option-values.ts";

interface ProfileFlags {
  readonly board?: string;
  readonly task?: string;
  readonly config?: string;
  readonly threads?: number;
  readonly json?: boolean;
}

/** Registers `profile`. */
export function profileCommand(program: Command): void {
  program
    .command("profile")
    .summary("measure this machine and show which framework it would get")
    .description(
      "Measures this machine, or takes a board of the catalogue, and shows which framework it would get in a task,\nwith the reason for every rejection.",
    )
    .option("--board <name>", "a board of the catalogue in place of this machine")
    .option("--task <file>", "task file (default: the embedded model at the defaults)")
    .option("--config <file>", "the device's configuration: budget, declared profile")
    .option("--threads <n>", "threads of the measurement (default: all processors)", wholeNumber(1))
    .option("--json", "print one JSON document")
    .addHelpText("after", examples("profile", "profile --board pi-zero-2w --task task.yaml"))
    .action(async ({ json, ...flags }: ProfileFlags) => {
      const { profileReport } = await import("../profile/report.ts");
      const { profileText } = await import("../profile/report-text.ts");
      const { signal, close } = interruptSignal();
      try {
        const cacheFolder = defaultCacheFolder();
        const report = await profileReport({ ...flags, cacheFolder, signal });
        const text = profileText(report);
        await printResult({ json: report, text }, json ? { json } : {});
      } finally {
        close();
      }
    });
}
