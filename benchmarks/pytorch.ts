// PyTorch on this machine, at its fastest: what a training step is compared with. It runs as a process that
// steps on request, so that both sides take turns on the same machine.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { packageRoot } from "../apps/package-root.ts";

/** A PyTorch that can be run, or why there is none. */
export type PyTorch =
  | { readonly kind: "missing"; readonly reason: string }
  | {
      readonly kind: "found";
      readonly python: string;
      readonly version: string;
      /** Kernels of OpenBLAS that were fastest here; empty for those it chooses itself. */
      readonly coreType: string;
      /** What one thread of them reaches in square products of 1024. */
      readonly flopsPerSecond: number;
    };

/**
 * How its process is set up. OpenMP that spins between products is faster on a quiet machine, one that sleeps on a
 * busy one; both keep freed memory, which saves up to a tenth of a step. `plain` takes the least memory.
 */
export type Tuning = "spinning" | "sleeping" | "plain";

/** Those that are timed. */
export const fastTunings: readonly Tuning[] = ["spinning", "sleeping"];

/** What PyTorch trains; the model is GPT-2 124M. */
export interface PyTorchOptions {
  readonly head: "lm" | "classification";
  readonly batch: number;
  readonly sequence: number;
  readonly threads: number;
  readonly tuning: Tuning;
}

/** A running PyTorch. */
export interface PyTorchProcess {
  readonly tuning: Tuning;
  /** Forward pass, loss and backward pass; milliseconds by PyTorch's own clock. */
  step(): Promise<number>;
  /** Highest resident memory after the last step. */
  peakBytes(): number;
  close(): Promise<void>;
}

/** Looks for a Python with PyTorch and for the kernels that make it fastest: an old OpenBLAS takes new processors for ancient ones. */
export async function findPyTorch(): Promise<PyTorch> {
  for (const python of ["/usr/bin/python3", "python3"]) {
    const found: Extract<PyTorch, { kind: "found" }>[] = [];
    for (const coreType of ["", ...(coreTypes[process.arch] ?? [])]) {
      const products = await measureProducts(python, coreType);
      if (products !== undefined) found.push({ kind: "found", python, coreType, ...products });
    }
    const [best] = found.toSorted((a, b) => b.flopsPerSecond - a.flopsPerSecond);
    if (best !== undefined) return best;
  }
  return { kind: "missing", reason: "no python3 that can import torch" };
}

/** Starts PyTorch and resolves once its model exists. */
export async function startPyTorch(
  { python, coreType }: Extract<PyTorch, { kind: "found" }>,
  { head, batch, sequence, threads, tuning }: PyTorchOptions,
): Promise<PyTorchProcess> {
  const args = [head, batch, sequence, threads].map(String);
  const child = spawn(python, [program(), ...args], {
    env: environment(coreType, tuning),
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = once(child, "close");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async (): Promise<Answer> => {
    const { value, done } = await lines.next();
    if (done) throw new Error("PyTorch ended before its answer");
    return JSON.parse(value) as Answer;
  };
  await answer();
  let peak = 0;
  return {
    tuning,
    step: async () => {
      child.stdin.write("step\n");
      const { ms = 0, peakBytes = 0 } = await answer();
      peak = peakBytes;
      return ms;
    },
    peakBytes: () => peak,
    close: async () => {
      child.stdin.end();
      await ended;
    },
  };
}

interface Answer {
  readonly ms?: number;
  readonly peakBytes?: number;
}

/** Kernels to try by architecture; one that the processor cannot run ends its process and is left out. */
const coreTypes: Readonly<Partial<Record<NodeJS.Architecture, readonly string[]>>> = {
  x64: ["COOPERLAKE", "SKYLAKEX", "ZEN", "HASWELL"],
  arm64: ["NEOVERSEN1", "CORTEXA72", "CORTEXA57"],
};

/** glibc gives no block below a gigabyte back, so that no step takes the same pages from the kernel again. */
const keepsMemory = Object.fromEntries(
  [
    ["MALLOC_MMAP_THRESHOLD_", 2 ** 30],
    ["MALLOC_TRIM_THRESHOLD_", 2 ** 32],
  ].map(([name, bytes]) => [name, String(bytes)]),
);

const tunings: Readonly<Record<Tuning, Readonly<Record<string, string>>>> = {
  // OpenMP's own default spins for some milliseconds, then sleeps.
  spinning: keepsMemory,
  sleeping: { ...keepsMemory, OMP_WAIT_POLICY: "PASSIVE" },
  plain: {},
};

function program(): string {
  return join(packageRoot(), "benchmarks", "pytorch-step.py");
}

async function measureProducts(
  python: string,
  coreType: string,
): Promise<{ readonly version: string; readonly flopsPerSecond: number } | undefined> {
  try {
    const args = [program(), "products"];
    const env = environment(coreType, "plain");
    const { stdout } = await promisify(execFile)(python, args, { env });
    return JSON.parse(stdout) as { version: string; flopsPerSecond: number };
  } catch {
    // No such Python, no torch, or an instruction that this processor lacks.
    return undefined;
  }
}

/** This process's environment without settings that might slow PyTorch down. */
function environment(
  coreType: string,
  tuning: Tuning,
): Readonly<Record<string, string | undefined>> {
  const kept = Object.entries(process.env).filter(([name]) => !/^(OPENBLAS|G?OMP|MKL)_/.test(name));
  const chosen = coreType === "" ? {} : { OPENBLAS_CORETYPE: coreType };
  return { ...Object.fromEntries(kept), ...tunings[tuning], ...chosen };
}
