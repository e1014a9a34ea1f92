// `trifold bench`: time and memory of a training step on this machine, each measured in a process of its own.
import type { ExecutionMode, HeadSettings } from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { chooseExecution, type ExecutionChoice } from "../execution.ts";
import { askBench } from "./probe.ts";
import type { ModelPlace } from "./random-weights.ts";
import { type ShapeOptions, withShape } from "./shape.ts";
import { pairedRatios, summarise } from "./statistics.ts";
import { loadsOf, prepareWorkload, type Workload } from "./workload.ts";

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
  readonly execution: ExecutionChoice;
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
  readonly mode: ExecutionMode;
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
  return await withShape(options.shape, options, (place) =>
    measure(options, workloadOf(options, place)),
  );
}

async function measure(options: BenchOptions, plain: Workload): Promise<BenchReport> {
  const { signal, log, runs, shape, cut, execution } = options;
  // Refuses what does not fit before anything is measured.
  const { spec } = await prepareWorkload(plain);
  const { mode } = await chooseExecution(spec, loadsOf(plain), execution, log);
  if (cut !== undefined && mode.startsWith("blocks")) {
    throw appErrors.error("OPTION_INVALID", `--mode is ${mode}, a client of --cut is one graph`, {
      hint: "Give --mode whole-float32, whole-int8 or whole-int4.",
    });
  }
  const workload = { ...plain, mode };
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

function workloadOf(options: BenchOptions, place: ModelPlace): Workload {
  const { head, batch, sequence, threads, cut } = options;
  return {
    ...place,
    ...{ head, batch, sequence, threads },
    ...(cut === undefined ? {} : { cut }),
  };
}
