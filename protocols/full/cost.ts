// What a round of `full` costs a device.
import { encodedBundleBytes, wholeModelCost } from "../cost.ts";
import { shapesOf, trainedPart } from "../plan.ts";
import type { CostOptions } from "../protocol.ts";
import type { RoundCost } from "../selection.ts";
import type { Task } from "../task.ts";
import { deviceTask } from "./device-task.ts";
import { stepsAsked } from "./steps-asked.ts";

/** Changes of all parameters down and of the device's ranks up, as in every round after the first; the whole model in memory. */
export function estimateFull(task: Task, options: CostOptions): RoundCost {
  const own = deviceTask(task, options);
  return {
    ...wholeModelCost(own, options, stepsAsked(task)),
    uplinkBytes: encodedBundleBytes(trainedPart(own, shapesOf(own)), own.full),
    downlinkBytes: encodedBundleBytes(trainedPart(task, shapesOf(task)), task.full),
    roundTrips: 2,
  };
}
