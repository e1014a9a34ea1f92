// What a round of `kd` costs a device.
import { graphFlops, logitsGraph, stepGraph, trainingMemoryBytes } from "../../runtime/index.ts";
import { sketchModel, wholeModelCost } from "../cost.ts";
import { encodedByteLength } from "../encoding/index.ts";
import { batchCount } from "../local-training.ts";
import { modelSpec } from "../plan.ts";
import type { CostOptions } from "../protocol.ts";
import type { RoundCost } from "../selection.ts";
import type { Task } from "../task.ts";

/** Logits of the public set both ways, as in every round after the first; the whole model in memory, and a second step graph to distil with. */
export function estimateKd(task: Task, options: CostOptions): RoundCost {
  const spec = modelSpec(task, sketchModel(task));
  const objective = { kind: "teacher", temperature: task.kd.temperature } as const;
  const step = stepGraph(spec).graph;
  const distillation = stepGraph(spec, { objective }).graph;
  const logits = logitsGraph(spec).graph;
  const examples = task.manifest.publicSet?.size ?? 0;
  const bytes = logitsBytes(task, examples);
  const predictions = batchCount(examples, task.training.batchSize);
  return {
    peakMemoryBytes: trainingMemoryBytes([step, distillation, logits]),
    uplinkBytes: bytes,
    downlinkBytes: bytes,
    flops:
      wholeModelCost(task, options).flops +
      task.kd.distillationSteps * graphFlops(distillation) +
      predictions * graphFlops(logits),
    roundTrips: 2,
  };
}

function logitsBytes(task: Task, examples: number): number {
  const { topK, encoding } = task.kd;
  const classes = task.head.labels.length;
  if (topK >= classes) return encodedByteLength([examples, classes], encoding);
  const indices = 2 * examples * topK;
  return (
    indices +
    encodedByteLength([examples, topK], encoding) +
    encodedByteLength([examples], encoding)
  );
}
