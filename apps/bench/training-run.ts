// Memory and first step of a process that does nothing but train.
import {
  adamW,
  type Engine,
  type ExecutionMode,
  loadFront,
  loadStep,
  ortEngine,
  type Parameters,
  parameterShapes,
  trainingMemoryBytes,
} from "../../runtime/index.ts";
import { peakResidentBytes, settledResidentBytes } from "../device/process-memory.ts";
import { engineOptions, smallGradient } from "./times.ts";
import { loadsOf, type PreparedWorkload, prepareWorkload, type Workload } from "./workload.ts";

/** What a training process showed. */
export interface TrainingRun {
  readonly mode: ExecutionMode;
  /** Resident before the engine starts. */
  readonly idleBytes: number;
  /** Highest resident memory of the whole process (VmHWM). */
  readonly peakBytes: number;
  /** Idle process and the estimate of what training adds: what `peakBytes` should be. */
  readonly estimatedBytes: number;
  /** From a new engine to a loaded step: graph, gradients, session. */
  readonly loadMs: number;
  /** From a new engine to the end of the first step. */
  readonly firstStepMs: number;
  /** Of single steps with their optimizer step, in order. */
  readonly stepMs: readonly number[];
}

/** Trains for some steps with AdamW, the whole model or a split client's front. */
export async function measureTraining(
  workload: Workload,
  { steps }: { readonly steps: number },
): Promise<TrainingRun> {
  const prepared = await prepareWorkload(workload);
  const idleBytes = await settledResidentBytes();
  const startMs = performance.now();
  const engine = ortEngine(engineOptions(workload));
  try {
    const step = await loadTraining(engine, prepared, workload.cut);
    const loadMs = performance.now() - startMs;
    const endsMs: number[] = [];
    for (let i = 0; i < steps; i++) {
      await step();
      endsMs.push(performance.now());
    }
    const peakBytes = peakResidentBytes();
    // Last, so that the graphs it builds are no part of what was measured.
    const estimatedBytes = idleBytes + trainingMemoryBytes(prepared.spec, loadsOf(workload));
    return {
      mode: workload.mode ?? "whole-float32",
      idleBytes,
      peakBytes,
      estimatedBytes,
      loadMs,
      firstStepMs: (endsMs[0] as number) - startMs,
      stepMs: endsMs.slice(1).map((ms, i) => ms - (endsMs[i] as number)),
    };
  } finally {
    await engine.close();
  }
}

/** A function that trains one step: gradients of the whole model or of the front, then AdamW. */
async function loadTraining(
  engine: Engine,
  { spec, parameters, feeds }: PreparedWorkload,
  cut: number | undefined,
): Promise<() => Promise<void>> {
  if (cut === undefined) {
    const step = await loadStep(engine, spec);
    return optimised(parameters, async (current) => (await step.run(current, feeds)).gradients);
  }
  const front = await loadFront(engine, spec, cut);
  const cutGradient = smallGradient(spec);
  const shapes = parameterShapes(spec.model.config, spec.lora, spec.head, { from: 0, to: cut });
  const own = new Map([...parameters].filter(([name]) => shapes.has(name)));
  return optimised(own, async (current) => {
    await front.forward(current, feeds);
    return await front.backward(current, feeds, cutGradient);
  });
}

function optimised(
  initial: Parameters,
  gradientsOf: (parameters: Parameters) => Promise<Parameters>,
): () => Promise<void> {
  const optimizer = adamW(initial);
  return async () => {
    const gradients = await gradientsOf(optimizer.parameters);
    optimizer.step(gradients, { rate: 1e-4 });
  };
}
