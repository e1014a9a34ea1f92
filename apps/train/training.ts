// `trifold train`: a person's table, one machine, one adapter. The centralised counterpart of a federation.
import { basename, resolve } from "node:path";
import {
  type Adapter,
  defaultTargets,
  type ModelSpec,
  ortEngine,
  type Parameters,
  saveAdapter,
} from "../../runtime/index.ts";
import { chooseExecution } from "../execution.ts";
import { openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { hasCheckpoint, removeCheckpoint } from "./checkpoint.ts";
import { firstAdapted } from "./graphs.ts";
import type { TrainingOptions, TrainingReport } from "./options.ts";
import { type HoldOutScore, scoreHoldOut } from "./scoring.ts";
import { readTrainingData } from "./training-data.ts";
import { runLoop } from "./training-loop.ts";
import { planTraining } from "./training-plan.ts";
import { trainingSettings } from "./training-settings.ts";

/**
 * Trains an adapter and saves it, with a checkpoint when it is interrupted. Throws `DATA_*`, `MODEL_*`, `CHECKPOINT_*`,
 * `TRAINING_DIVERGED`, or the signal's reason before the first step.
 */
export async function trainAdapter(options: TrainingOptions): Promise<TrainingReport> {
  const { cacheFolder, threads, providers, signal, out, log } = options;
  const opened = await openModelAndTokenizer(options.model, cacheFolder);
  const { model } = opened;
  const data = await readTrainingData(options, opened);
  const { head, labels, sequence, train: examples } = data;
  const { padTokenId } = model.config;
  const plan = planTraining({ ...options, head, examples, sequence, padTokenId });
  const lora = { targets: defaultTargets(model.config), ...options.lora };
  const { batchSize: batch } = options;
  const plain = { model, lora, head, batch, sequence };
  const steps = plan.lengths.map((length) => ({ kind: "step", sequence: length }) as const);
  const { prefixCache } = options;
  // The blocks below a cached prefix are a graph of their own, and what it keeps stays.
  const fronts = prefixCache ? [{ kind: "front", cutLayer: firstAdapted(plain) } as const] : [];
  const execution = { ...options.execution, reservedBytes: prefixCache?.memoryBytes ?? 0 };
  const { spec, mode } = await chooseExecution(plain, [...steps, ...fronts], execution, log);
  const settings = trainingSettings({ ...options, lora, mode }, opened, data, plan.steps);
  if (hasCheckpoint(out) && !options.resume) {
    log(`note: ${out} holds an unfinished training, which this one replaces; --resume goes on`);
  }
  const engine = ortEngine({
    signal,
    ...(threads && { threads }),
    ...(providers && { providers }),
  });
  try {
    const trained = await runLoop({ options, engine, spec, plan, settings });
    const { parameters, steps, totals, prefixReports } = trained;
    await saveAdapter(out, adapterOf(options, spec, labels, parameters));
    const interrupted = steps < plan.steps;
    if (!interrupted) await removeCheckpoint(out);
    const score = signal.aborted
      ? {}
      : await scoreHoldOut({ engine, spec, parameters, examples: data.holdOut }).catch(
          unscoredWhen(signal),
        );
    return {
      adapter: out,
      labels,
      trainExamples: examples.length,
      holdOutExamples: data.holdOut.length,
      steps,
      loss: totals.loss / Math.max(1, steps),
      ...score,
      padding: plan.padding,
      mode,
      ...(prefixReports.length > 0 ? { prefixCache: prefixReports } : {}),
      seconds: totals.seconds,
      flops: totals.flops,
      interrupted,
    };
  } finally {
    await engine.close();
  }
}

/** The adapter is saved by then: who interrupts its scoring loses the score and nothing else. */
function unscoredWhen(signal: AbortSignal): (cause: unknown) => HoldOutScore {
  return (cause) => {
    if (signal.aborted && cause === signal.reason) return {};
    throw cause;
  };
}

function adapterOf(
  { model: folder }: TrainingOptions,
  { model, lora, head }: ModelSpec,
  labels: readonly string[],
  parameters: Parameters,
): Adapter {
  // The folder's name says which model it was; where it lay on this machine is nobody's concern.
  const baseModelName = basename(resolve(folder));
  const named = head.kind === "classification" ? { labels } : {};
  return { lora, head, parameters, ...named, baseModelName, baseModelSha256: model.sha256 };
}
