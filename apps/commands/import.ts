// `trifold import`: a model folder that every command opens without a copy in the cache.
import type { Command } from "commander";
import { printResult } from "../command-result.ts";
import type { ImportReport } from "../import/importing.ts";
import { interruptSignal } from "../interrupt.ts";
import { examples } from "./option-values.ts";

interface ImportFlags {
  readonly out?: string;
  readonly json?: boolean;
}

/** Registers `import`. Ctrl-C leaves nothing behind (status 130). */
export function importCommand(program: Command): void {
  program
    .command("import")
    .summary("make a folder of float32 weights from a Hugging Face model")
    .description(
      "Checks a Hugging Face folder (config.json, tokenizer.json, one or several safetensors files) and writes its weights as the float32 file that\nsessions map. Every command takes the new folder as its model and copies nothing into the cache.",
    )
    .argument("<folder>", "Hugging Face model folder")
    .option("--out <folder>", "folder to make, absent or empty (default: ./<name>-trifold)")
    .option("--json", "print one JSON document")
    .addHelpText("after", examples("import ./SmolLM2-135M", "import ./gpt2 --out ./models/gpt2"))
    .action(run);
}

async function run(folder: string, { out, json }: ImportFlags): Promise<void> {
  const { importFolder } = await import("../import/importing.ts");
  const { progressLines, progressBar } = await import("../progress.ts");
  const { formatQuantity } = await import("../../devices/index.ts");
  const { signal, close } = interruptSignal();
  const lines = progressLines(process.stderr);
  try {
    const report = await importFolder({
      folder,
      ...(out === undefined ? {} : { out }),
      signal,
      onProgress: ({ tensors, totalTensors, bytes, totalBytes }) => {
        const share = bytes / totalBytes;
        const of = `${formatQuantity(bytes, "bytes")} of ${formatQuantity(totalBytes, "bytes")}`;
        lines.show(share, `${progressBar(share)} ${tensors}/${totalTensors} tensors, ${of}`);
      },
    });
    lines.close();
    await printResult({ json: report, text: reportText(report) }, json ? { json } : {});
  } finally {
    lines.close();
    close();
  }
}

function reportText({ family, parameters, sha256, out }: ImportReport): string {
  const hash = sha256.slice(0, 12);
  return `imported ${hash}, a ${family} model of ${parameters} parameters\nmodel saved in ${out}`;
}
