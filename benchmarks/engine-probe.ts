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
import { fastTunings, type PyTorch, type PyTorchProcess, startPyTorch } from "./pytorch.ts";

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
  /** PyTorch with the tuning that has the lowest median; empty without PyTorch. */
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
  const pytorchPeakBytes = await pytorchPeak(workload, pytorch);
  const others = await startAll(workload, pytorch);
  const engine = ortEngine({ threads });
  try {
    const { lossOnly, step, stepFlops } = await loadTurns(engine, workload);
    const products: Turn = () => measureGemm({ threads, size: 1024, repeats: 3 });
    const theirs = Object.fromEntries(others.map((other) => [other.tuning, other.step]));
    const options = { runs, warmUps: 2 };
    const times = await takeTurns<string>({ lossOnly, step, products, ...theirs }, options);
    const of = (name: string) => times[name] ?? [];
    const pytorchMs = fastest(others.map(({ tuning }) => of(tuning)));
    return {
      ...{ lossOnlyMs: of("lossOnly"), stepMs: of("step"), products: of("products") },
      ...{ stepFlops, pytorchMs, pytorchPeakBytes },
    };
  } finally {
    for (const other of others) await other.close();
    await engine.close();
  }
}

/** PyTorch in every way that may be the fastest: which one is depends on what else the machine does. */
async function startAll(workload: Workload, pytorch: PyTorch): Promise<readonly PyTorchProcess[]> {
  if (pytorch.kind === "missing") return [];
  const started: PyTorchProcess[] = [];
  for (const tuning of fastTunings) {
    started.push(await startPyTorch(pytorch, { ...pytorchOptions(workload), tuning }));
  }
  return started;
}

function pytorchOptions({ head, batch, sequence, threads }: Workload) {
  return { head: head.kind, batch, sequence, threads };
}

function fastest(lists: readonly (readonly number[])[]): readonly number[] {
  return lists.toSorted((a, b) => summarise(a).median - summarise(b).median)[0] ?? [];
}

/** Of a process that was not made fast at the cost of memory. */
async function pytorchPeak(workload: Workload, pytorch: PyTorch): Promise<number> {
  if (pytorch.kind === "missing") return 0;
  const other = await startPyTorch(pytorch, { ...pytorchOptions(workload), tuning: "plain" });
  for (let i = 0; i < 3; i++) await other.step();
  await other.close();
  return other.peakBytes();
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
