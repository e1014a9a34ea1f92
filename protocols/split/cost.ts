// What a round of `split` costs a device.
import {
  frontBackwardGraph,
  frontForwardGraph,
  graphFlops,
  trainingMemoryBytes,
} from "../../runtime/index.ts";
import { encodedBundleBytes, sketchSpec } from "../cost.ts";
import { encodedByteLength } from "../encoding/index.ts";
import { batchCount } from "../local-training.ts";
import { labelsOf, shapesOf } from "../plan.ts";
import type { CostOptions } from "../protocol.ts";
import type { RoundCost } from "../selection.ts";
import type { Task } from "../task.ts";
import { cutShape } from "./cut.ts";

/** Activations of every step and of the hold-out up, gradients and logits down; only the front in memory. */
export function estimateSplit(task: Task, { cutLayer = 1, holdOut }: CostOptions): RoundCost {
  const spec = sketchSpec(task);
  const forward = frontForwardGraph(spec, cutLayer).graph;
  const backward = frontBackwardGraph(spec, cutLayer).graph;
  const { batchSize, localSteps } = task.training;
  const shape = cutShape(task);
  const front = encodedBundleBytes(shapesOf(task, { from: 0, to: cutLayer }), task.full);
  const evaluations = batchCount(holdOut, batchSize);
  const exchanges = localSteps + evaluations;
  const { gradients, keepFraction } = task.split;
  const gradient = encodedByteLength(shape, gradients, { keepFraction });
  const logits = encodedByteLength([batchSize, labelsOf(task).length], "float32");
  return {
    peakMemoryBytes: trainingMemoryBytes(spec, [{ kind: "front", cutLayer }]),
    uplinkBytes: front + exchanges * encodedByteLength(shape, task.split.activations),
    downlinkBytes: front + localSteps * gradient + evaluations * logits,
    flops:
      localSteps * (graphFlops(forward) + graphFlops(backward)) + evaluations * graphFlops(forward),
    roundTrips: exchanges + 2,
  };
}
