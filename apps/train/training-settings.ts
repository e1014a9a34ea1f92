// The settings that decide a training's numbers, by the options that set them: what a checkpoint belongs to.
import { createHash } from "node:crypto";
import { availableParallelism } from "node:os";
import type { ExecutionMode, LoraSettings } from "../../runtime/index.ts";
import type { ModelAndTokenizer } from "../model-and-tokenizer.ts";
import type { TrainingOptions } from "./options.ts";
import type { TrainingData } from "./training-data.ts";

/** Values by option; files are there by their hash. */
export type TrainingSettings = Readonly<Record<string, unknown>>;

/** Options with what follows from the model filled in. */
export interface ChosenSettings extends TrainingOptions {
  readonly lora: LoraSettings;
  readonly mode: ExecutionMode;
}

/** Everything that a resumed training must have in common with the one it goes on from. */
export function trainingSettings(
  options: ChosenSettings,
  { model, tokenizer }: ModelAndTokenizer,
  { labels, sequence, train, holdOut }: TrainingData,
  steps: number,
): TrainingSettings {
  const { lora } = options;
  return {
    "--model": [model.sha256, tokenizer.sha256].map((hash) => hash.slice(0, 16)).join(" "),
    "--data": sha256([labels, train, holdOut]).slice(0, 16),
    "--head": options.head,
    "--rank": lora.rank,
    "--alpha": lora.alpha,
    "--targets": lora.targets,
    "--dropout": lora.dropout ?? 0,
    "--rs-lora": lora.rsLora ?? false,
    "--layers": lora.layers ?? "all",
    "--optimizer": options.optimizer,
    "--weight-decay": options.weightDecay,
    "--epochs or --steps": steps,
    "--batch-size": options.batchSize,
    "--accumulate": options.accumulate,
    "--sequence-length": sequence,
    "--learning-rate": options.learningRate,
    "--warm-up": options.warmUp,
    "--schedule": options.schedule,
    "--label-smoothing": options.labelSmoothing,
    "--max-gradient-norm": options.maxGradientNorm,
    "--seed": options.seed,
    "--hold-out": options.holdOutFraction,
    "--provider": options.providers?.[0] ?? "cpu",
    // Block by block gives the whole graph's bits, rounded weights give others.
    "--mode": options.mode.replace(/^\w+-/, ""),
    // Other counts add up in another order.
    "--threads": options.threads ?? availableParallelism(),
  };
}

/** Options in which two settings differ, such as `--rank 8 (now 4)`. */
export function differencesOf(before: TrainingSettings, now: TrainingSettings): string[] {
  const names = new Set([...Object.keys(before), ...Object.keys(now)]);
  return [...names].flatMap((name) => {
    const [was, is] = [before[name], now[name]].map((value) => JSON.stringify(value));
    return was === is ? [] : [`${name} ${was} (now ${is})`];
  });
}

function sha256(value: unknown): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex");
}
