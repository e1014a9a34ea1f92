// The measuring processes of `trifold bench`.
import { measureGemm } from "../device/gemm-probe.ts";
import { type AskOptions, answerAsProgram, askProgram } from "./probe-process.ts";
import { writeRandomGpt2 } from "./random-weights.ts";
import { measureTimes, type StepTimes } from "./times.ts";
import { measureTraining, type TrainingRun } from "./training-run.ts";
import type { Workload } from "./workload.ts";

/** What can be measured. */
export type BenchProbes = {
  readonly weights: { readonly question: { readonly folder: string }; readonly answer: boolean };
  readonly times: {
    readonly question: { readonly workload: Workload; readonly runs: number };
    readonly answer: StepTimes;
  };
  readonly training: {
    readonly question: { readonly workload: Workload; readonly steps: number };
    readonly answer: TrainingRun;
  };
  /** FLOP/s of large matrix products. */
  readonly products: {
    readonly question: { readonly threads: number };
    readonly answer: number;
  };
};

/** Measures in a new process; see `askProgram` for what it throws. */
export async function askBench<K extends keyof BenchProbes>(
  kind: K,
  question: BenchProbes[K]["question"],
  options: AskOptions = {},
): Promise<BenchProbes[K]["answer"]> {
  return await askProgram<BenchProbes, K>(import.meta.url, kind, question, options);
}

await answerAsProgram<BenchProbes>(import.meta.url, {
  weights: async ({ folder }) => {
    await writeRandomGpt2(folder);
    return true;
  },
  times: async ({ workload, runs }) => await measureTimes(workload, { runs }),
  training: async ({ workload, steps }) => await measureTraining(workload, { steps }),
  products: async ({ threads }) => await measureGemm({ threads, size: 1024 }),
});
