// What the cost estimates of the protocols share. They build the very graphs a device would run, so
// FLOPs are exact and memory follows from the lives of their values.
import {
  type BaseModel,
  type ExecutionMode,
  elementCount,
  type ModelSpec,
  sketchInMode,
  tensorShapes,
  trainingMemoryBytes,
  workloadFlops,
} from "../runtime/index.ts";
import { encodedByteLength } from "./encoding/index.ts";
import { batchCount } from "./local-training.ts";
import { modelSpec } from "./plan.ts";
import type { CostOptions } from "./protocol.ts";
import type { RoundCost } from "./selection.ts";
import type { Task } from "./task.ts";
import type { ChangeEncoding } from "./update-encoding.ts";

/** A base model without bytes: shapes enough to build graphs that are measured, never run. */
function sketchModel({ manifest }: Task): BaseModel {
  let offsetBytes = 0;
  const weights = new Map(
    [...tensorShapes(manifest.config)].map(([name, shape]) => {
      const lengthBytes = 4 * elementCount(shape);
      const location = { shape, offsetBytes, lengthBytes };
      offsetBytes += lengthBytes;
      return [name, location];
    }),
  );
  return { config: manifest.config, weightsFile: "", weights, sha256: manifest.modelSha256 };
}

/** The task's model in an execution mode, to build graphs of that are measured. */
export function sketchSpec(task: Task, mode: ExecutionMode = "whole-float32"): ModelSpec {
  return sketchInMode(modelSpec(task, sketchModel(task)), mode);
}

/** Bytes of encoded tensors of these shapes. */
export function encodedBundleBytes(
  shapes: ReadonlyMap<string, readonly number[]>,
  { encoding, keepFraction }: ChangeEncoding,
): number {
  let bytes = 0;
  for (const shape of shapes.values())
    bytes += encodedByteLength(shape, encoding, { keepFraction });
  return bytes;
}

/** Memory and FLOPs of a round that trains the whole model on the device and scores the hold-out. */
export function wholeModelCost(
  task: Task,
  { holdOut, mode }: CostOptions,
  steps: number = task.training.localSteps,
): Pick<RoundCost, "peakMemoryBytes" | "flops"> {
  const spec = sketchSpec(task, mode);
  const step = { kind: "step" } as const;
  const scoring = { kind: spec.head.kind === "lm" ? "loss" : "logits" } as const;
  const { batchSize } = task.training;
  return {
    peakMemoryBytes: trainingMemoryBytes(spec, [step, scoring]),
    flops:
      steps * workloadFlops(spec, step) +
      batchCount(holdOut, batchSize) * workloadFlops(spec, scoring),
  };
}
