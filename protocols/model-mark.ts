// Whose parameters a device keeps: another model may have tensors of the same names and shapes.
import { type Float32Tensor, float32, type Parameters } from "../runtime/index.ts";
import type { Task } from "./task.ts";

/** Kept parameters with the mark of the model that they adapt: the 32 bytes of its sha256, a number each. */
export function marked(task: Task, parameters: Parameters): Parameters {
  return new Map([...parameters, [markName, markOf(task)]]);
}

/** Whether kept parameters are of the task's model, which to a device with a model of its own is that one. */
export function isOfModel(task: Task, kept: Parameters): boolean {
  const mark = kept.get(markName)?.data ?? new Float32Array();
  return Buffer.from(mark).toString("hex") === task.manifest.modelSha256;
}

function markOf({ manifest }: Task): Float32Tensor {
  return float32([32], [...Buffer.from(manifest.modelSha256, "hex")]);
}

// No parameter is called so: their names begin with PEFT's prefix.
const markName = "model";
