// `trifold demo`: the main job on this machine, from nothing to one adapter.

import { join } from "node:path";
import type { Command } from "commander";
import { defaultCacheFolder } from "../cache-folder.ts";
import { printResult } from "../command-result.ts";
import { interruptSignal } from "../interrupt.ts";
import { examples, wholeNumber } from "./option-values.ts";

interface DemoFlags {
  readonly rounds: number;
  readonly seed: number;
  readonly out?: string;
  readonly json?: boolean;
}

/** Registers `demo`. */
export function demoCommand(program: Command): void {
  program
    .command("demo")
    .summary("train one model on four virtual boards, each with data and a framework of its own")
    .description(
      "Starts a broker, a coordinator and four virtual boards (Orin Nano, Pi 5, Pi 4, Pi Zero 2 W), each a process of\nits own. The boards train one adapter together, each on its own speeches, in the framework its figures allow.\nTakes about five minutes on two cores.",
    )
    .option("--rounds <n>", "rounds of training", wholeNumber(1), 4)
    .option("--seed <n>", "equal seeds give equal numbers", wholeNumber(0), 1)
    .option("--out <folder>", "run folder (default: runs/demo-<time>)")
    .option("--json", "print one JSON document at the end")
    .addHelpText(
      "after",
      examples("demo", "demo --rounds 6 --seed 2 --out ./run", "demo --json > result.json"),
    )
    .action(run);
}

async function run({ rounds, seed, out, json }: DemoFlags): Promise<void> {
  const { runDemo } = await import("../demo/demo.ts");
  const { createScreen } = await import("../demo/screen.ts");
  const { writeDemoReport } = await import("../demo/demo-report.ts");
  const { signal, close } = interruptSignal();
  const screen = createScreen(process.stderr, rounds);
  try {
    const result = await runDemo({
      rounds,
      seed,
      out: out ?? join("runs", `demo-${stamp(new Date())}`),
      cacheFolder: defaultCacheFolder(),
      signal,
      onEvent: screen.event,
      onBaseline: screen.baseline,
      onStage: screen.stage,
      log: screen.log,
    });
    screen.close();
    await printResult(await writeDemoReport(result, { seed, rounds }), json ? { json: true } : {});
  } finally {
    screen.close();
    close();
  }
}

/** 20261123-141502, in local time. */
function stamp(now: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const date = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`;
  return `${date}-${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
}
