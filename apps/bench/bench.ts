// `trifold bench`: time and memory of a training step on this machine, each measured in a process of its own.
import { parseQuantity } from "../../devices/index.ts";
import type { HeadSettings } from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { chooseMode, type Mode } from "./mode.ts";
import { askBench } from "./probe.ts";
import type { ModelPlace } from "./random-weights.ts";
import { type ShapeOptions, withShape } from "./shape.ts";
import { pairedRatios, summarise } from "./statistics.ts";
import { prepareWorkload, type Workload } from "./workload.ts";

/** What to measure. */
export interface BenchOptions extends ShapeOptions {
  /** `gpt2-small`, or a model folder. */
  readonly shape: string;
  readonly head: HeadSettings;
  readonly batch: number;
  readonly sequence: number;
  readonly threads: number;
  /** Blocks of a split client, measured in place of the whole step. */
  readonly cut?: number;
  /** What training may add to an idle process, as people write sizes: `400MB`. */
  readonly memory?: string;
  /** Times that each thing is timed. */
  readonly runs: number;
}

/** What was measured; times are medians. */
export interface BenchReport {
  readonly shape: string;
  readonly head: HeadSettings["kind"];
  readonly batch: number;
  readonly sequence: number;
  readonly threads: number;
  readonly mode: Mode["name"];
  /** Forward pass to the loss of the whole model. */
  readonly lossOnlyMs: number;
  /** The whole step, or the split client's two passes. No optimizer step. */
  readonly stepMs: number;
  /** Step / loss only; with a cut client / whole step. Median of the ratios of neighbours in time. */
  readonly ratio: number;
  readonly tokensPerSecond: number;
  /** From a new engine to a loaded step. */
  readonly loadMs: number;
  /** Highest resident memory of a process that only trains. */
  readonly peakMemoryBytes: number;
  /** The same, as estimated before: idle process and what training adds. */
  readonly estimatedMemoryBytes: number;
  /** Large matrix products through the same engine. */
  readonly gemmFlopsPerSecond: number;
  /** With a cut: blocks of the client, and the whole step beside it. */
  readonly cut?: number;
  readonly fullStepMs?: number;
}

/** Measures a training step. Throws `MODEL_*`, `OPTION_INVALID`, `BENCH_PROCESS_FAILED`, or the signal's reason. */
export async function bench(options: BenchOptions): Promise<BenchReport> {
  const budgetBytes = budgetBytesOf(options.memory);
  return await withShape(options.shape, options, (place) =>
    measure(options, workloadOf(options, place, budgetBytes)),
  );
}

async function measure(options: BenchOptions, workload: Workload): Promise<BenchReport> {
  const { signal, log, runs, shape, cut } = options;
  // Refuses what does not fit before anything is measured.
  chooseMode((await prepareWorkload(workload)).spec, workload);
  const { head, batch, sequence, threads } = workload;
  log("memory ...");
  const training = await askBench("training", { workload, steps: 4 }, { signal });
  log("time ...");
  const times = await askBench("times", { workload, runs }, { signal });
  log("matrix products ...");
  const gemmFlopsPerSecond = await askBench("products", { threads }, { signal });
  const { lossOnlyMs, stepMs, fullStepMs } = times;
  const step = summarise(stepMs).median;
  const ratios =
    fullStepMs === undefined ? pairedRatios(stepMs, lossOnlyMs) : pairedRatios(stepMs, fullStepMs);
  return {
    ...{ shape, head: head.kind, batch, sequence, threads, mode: training.mode },
    lossOnlyMs: summarise(lossOnlyMs).median,
    stepMs: step,
    ratio: summarise(ratios).median,
    tokensPerSecond: (1000 * batch * sequence) / step,
    loadMs: training.loadMs,
    peakMemoryBytes: training.peakBytes,
    estimatedMemoryBytes: training.estimatedBytes,
    gemmFlopsPerSecond,
    ...(cut === undefined || fullStepMs === undefined
      ? {}
      : { cut, fullStepMs: summarise(fullStepMs).median }),
  };
}

function budgetBytesOf(memory: string | undefined): number | undefined {
  if (memory === undefined) return undefined;
  const bytes = parseQuantity(memory, "bytes");
  if (bytes !== undefined && bytes > 0) return bytes;
  throw appErrors.error("OPTION_INVALID", `--memory is "${memory}", expected a size above 0`, {
    hint: "Write it with its unit, such as 400MB or 1.5 GiB.",
  });
}

function workloadOf(
  options: BenchOptions,
  place: ModelPlace,
  budgetBytes: number | undefined,
): Workload {
  const { head, batch, sequence, threads, cut } = options;
  return {
    ...place,
    ...{ head, batch, sequence, threads },
    ...(cut === undefined ? {} : { cut }),
    ...(budgetBytes === undefined ? {} : { budgetBytes }),
  };
}
