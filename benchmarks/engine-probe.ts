// The measuring processes of suite `engine` that `trifold bench` has not: turns with PyTorch, the event loop,
// a client under a limit.
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { type AskOptions, answerAsProgram, askProgram } from "../apps/bench/probe-process.ts";
import { summarise } from "../apps/bench/statistics.ts";
import { loadTurns, type Turn, takeTurns } from "../apps/bench/times.ts";
import { measureTraining, type TrainingRun } from "../apps/bench/training-run.ts";
import { prepareWorkload, type Workload } from "../apps/bench/workload.ts";
import { measureGemm } from "../apps/device/gemm-probe.ts";
import { loadStep, ortEngine, train } from "../runtime/index.ts";
import { watchEventLoop } from "./event-loop.ts";
import { memoryLimitBytes } from "./memory-limit.ts";
import { type PyTorch, type PyTorchProcess, startPyTorch, waysToWait } from "./pytorch.ts";

/** What can be measured. */
export type EngineProbes = {
  readonly turns: {
    readonly question: {
      readonly workload: Workload;
      readonly runs: number;
      readonly pytorch: PyTorch;
    };
    readonly answer: TurnTimes;
  };
  readonly stall: {
    readonly question: { readonly workload: Workload; readonly steps: number };
    readonly answer: { readonly longestStallMs: number };
  };
  readonly limited: {
    readonly question: {
      readonly workload: Workload;
      readonly steps: number;
      /** Takes a copy of the weights: pages of a file count where they were read first. */
      readonly folder: string;
    };
    readonly answer: TrainingRun & { readonly limitBytes: number | undefined };
  };
};

/** What took turns in one process, in order; a place in one list is the same round in all. */
export interface TurnTimes {
  readonly lossOnlyMs: readonly number[];
  readonly stepMs: readonly number[];
  readonly stepFlops: number;
  /** FLOP/s of large products through the same engine. */
  readonly products: readonly number[];
  /** PyTorch, waiting in the way that has the lower median; empty without PyTorch. */
  readonly pytorchMs: readonly number[];
  readonly pytorchPeakBytes: number;
}

/** Measures in a new process; see `askProgram` for what it throws. */
export async function askEngine<K extends keyof EngineProbes>(
  kind: K,
  question: EngineProbes[K]["question"],
  options: AskOptions = {},
): Promise<EngineProbes[K]["answer"]> {
  return await askProgram<EngineProbes, K>(import.meta.url, kind, question, options);
}

await answerAsProgram<EngineProbes>(import.meta.url, {
  turns: async (question) => await measureTurns(question),
  stall: async ({ workload, steps }) => await measureStall(workload, steps),
  limited: async ({ workload, steps, folder }) => {
    const cacheFolder = join(folder, "weights");
    await cp(workload.cacheFolder, cacheFolder, { recursive: true });
    const run = await measureTraining({ ...workload, cacheFolder }, { steps });
    return { ...run, limitBytes: await memoryLimitBytes() };
  },
});

async function measureTurns({
  workload,
  runs,
  pytorch,
}: EngineProbes["turns"]["question"]): Promise<TurnTimes> {
  const { threads } = workload;
  const engine = ortEngine({ threads });
  const others = await startAll(workload, pytorch);
  try {
    const { lossOnly, step, stepFlops } = await loadTurns(engine, workload);
    const products: Turn = () => measureGemm({ threads, size: 1024, repeats: 3 });
    const times = await takeTurns<string>(
      { lossOnly, step, products, ...turnsOf(others) },
      { runs, warmUps: 2 },
    );
    const of = (name: string) => times[name] ?? [];
    return {
      lossOnlyMs: of("lossOnly"),
      stepMs: of("step"),
      products: of("products"),
      stepFlops,
      ...fastestOf(others, of),
    };
  } finally {
    for (const other of others) await other.close();
    await engine.close();
  }
}

/** PyTorch in every way to wait: which is fastest depends on what else the machine does. */
async function startAll(workload: Workload, pytorch: PyTorch): Promise<readonly PyTorchProcess[]> {
  if (pytorch.kind === "missing") return [];
  const { head, batch, sequence, threads } = workload;
  const options = { head: head.kind, batch, sequence, threads };
  const started: PyTorchProcess[] = [];
  for (const waiting of waysToWait) {
    started.push(await startPyTorch(pytorch, { ...options, waiting }));
  }
  return started;
}

function turnsOf(others: readonly PyTorchProcess[]): Readonly<Record<string, Turn>> {
  return Object.fromEntries(others.map(({ waiting, step }) => [waiting, step]));
}

function fastestOf(
  others: readonly PyTorchProcess[],
  timesOf: (name: string) => readonly number[],
): Pick<TurnTimes, "pytorchMs" | "pytorchPeakBytes"> {
  const runs = others.map((other) => ({ other, ms: timesOf(other.waiting) }));
  const [fastest] = runs.toSorted((a, b) => summarise(a.ms).median - summarise(b.ms).median);
  return { pytorchMs: fastest?.ms ?? [], pytorchPeakBytes: fastest?.other.peakBytes() ?? 0 };
}

async function measureStall(
  workload: Workload,
  steps: number,
): Promise<{ readonly longestStallMs: number }> {
  const { spec, parameters, feeds } = await prepareWorkload(workload);
  const engine = ortEngine({ threads: workload.threads });
  try {
    const step = await loadStep(engine, spec);
    const batches = Array.from({ length: steps }, () => feeds);
    const options = { step, initial: parameters, rateAt: () => 1e-4, maxGradientNorm: 1 };
    // The first step compiles the loop and fills ONNX Runtime's arena.
    await train({ ...options, batches: [feeds] });
    const { longestStallMs } = await watchEventLoop(() => train({ ...options, batches }));
    return { longestStallMs };
  } finally {
    await engine.close();
  }
}
