// `trifold verify`: compares this machine's numbers with a reference file.
import type { Command } from "commander";
import type { ProviderChoice } from "../../runtime/index.ts";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import { exitStatus } from "../failure.ts";
import type { VerifyReport } from "../verify/verify.ts";
import { examples, providerOption, wholeNumber } from "./option-values.ts";

interface VerifyFlags {
  readonly reference: string;
  readonly out?: string;
  readonly threads?: number;
  readonly provider?: ProviderChoice;
  readonly json?: boolean;
}

/** Registers `verify`. Status 1 when a result is beyond its bound. */
export function verifyCommand(program: Command): void {
  program
    .command("verify")
    .summary("compare loss, logits and gradients with a reference file")
    .description(
      "Computes loss, logits and adapter gradients of a reference file's batch on this machine and compares " +
        "them with what the file expects: per tensor, error <= 1e-4 + 1e-3 * max|expected|.",
    )
    .argument("<model>", "model folder: Hugging Face's, or one that import made")
    .requiredOption("--reference <file>", "reference file (safetensors)")
    .option("--out <file>", "write actual.loss, actual.logits and actual.grad.<name> to this file")
    .option("--threads <n>", "threads of one operator (default: all processors)", wholeNumber(1))
    .addOption(providerOption())
    .option("--json", "print one JSON document")
    .addHelpText(
      "after",
      examples(
        "verify ./gpt2 --reference reference.safetensors",
        "verify ./gpt2 --reference batch.safetensors --out actual.safetensors --json",
      ),
    )
    .action(async (model: string, flags: VerifyFlags) => {
      const { verify } = await import("../verify/verify.ts");
      const { engineProviders } = await import("../providers.ts");
      const { provider, ...rest } = flags;
      const cacheFolder = defaultCacheFolder();
      const providers = await engineProviders(provider, log);
      const report = await verify({ ...rest, model, cacheFolder, providers });
      for (const note of report.notes) log(`note: ${note}`);
      const text = await reportText(report, flags);
      await printResult({ json: report, text }, flags);
      if (!report.ok) process.exitCode = exitStatus.failed;
    });
}

async function reportText(
  { loss, comparisons, ok }: VerifyReport,
  { out }: VerifyFlags,
): Promise<string> {
  const { textTable } = await import("../text-table.ts");
  const lines = [`loss ${loss}`];
  if (out !== undefined) lines.push(`results written to ${out}`);
  if (comparisons.length === 0) lines.push("the file holds no expectations to compare with");
  else {
    const rows = comparisons.map(({ name, error, bound, ok: within }) => {
      return [name, error.toExponential(2), bound.toExponential(2), within ? "ok" : "BEYOND"];
    });
    const head = ["tensor", "maximum error", "bound", ""];
    lines.push("", textTable(head, rows, { right: [1, 2] }), "");
    const beyond = comparisons.filter((comparison) => !comparison.ok).length;
    lines.push(ok ? "all within bounds" : `${beyond} of ${comparisons.length} beyond bounds`);
  }
  return lines.join("\n");
}
