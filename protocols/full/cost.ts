// What a round of `full` costs a device.
import { encodedBundleBytes, wholeModelCost } from "../cost.ts";
import { shapesOf, trainedPart } from "../plan.ts";
import type { CostOptions } from "../protocol.ts";
import type { RoundCost } from "../selection.ts";
import type { Task } from "../task.ts";
import { stepsAsked } from "./steps-asked.ts";

/** Changes of all parameters both ways, as in every round after the first; the whole model in memory. */
export function estimateFull(task: Task, options: CostOptions): RoundCost {
  const parameterBytes = encodedBundleBytes(trainedPart(task, shapesOf(task)), task.full);
  return {
    ...wholeModelCost(task, options, stepsAsked(task)),
    uplinkBytes: parameterBytes,
    downlinkBytes: parameterBytes,
    roundTrips: 2,
  };
}
