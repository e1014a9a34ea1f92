// What a round asks of a full device.
import type { TaskSettings } from "../task.ts";

/** Local steps, or batches of the mean gradient. */
export function stepsAsked({ full, training }: TaskSettings): number {
  return full.mode === "gradients" ? full.gradientBatches : training.localSteps;
}
