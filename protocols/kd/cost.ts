// What a round of `kd` costs a device.
import { trainingMemoryBytes, workloadFlops } from "../../runtime/index.ts";
import { sketchSpec, wholeModelCost } from "../cost.ts";
import { encodedByteLength } from "../encoding/index.ts";
import { batchCount } from "../local-training.ts";
import { labelsOf } from "../plan.ts";
import type { CostOptions } from "../protocol.ts";
import type { RoundCost } from "../selection.ts";
import type { Task } from "../task.ts";

/** Logits of the public set both ways, as in every round after the first; the whole model in memory, and a second step graph to distil with. */
export function estimateKd(task: Task, options: CostOptions): RoundCost {
  const spec = sketchSpec(task, options.mode);
  const objective = { kind: "teacher", temperature: task.kd.temperature } as const;
  const distillation = { kind: "step", objective } as const;
  const logits = { kind: "logits" } as const;
  const examples = task.manifest.publicSet?.size ?? 0;
  const bytes = logitsBytes(task, examples);
  const predictions = batchCount(examples, task.training.batchSize);
  return {
    peakMemoryBytes: trainingMemoryBytes(spec, [{ kind: "step" }, distillation, logits]),
    uplinkBytes: bytes,
    downlinkBytes: bytes,
    flops:
      wholeModelCost(task, options).flops +
      task.kd.distillationSteps * workloadFlops(spec, distillation) +
      predictions * workloadFlops(spec, logits),
    roundTrips: 2,
  };
}

function logitsBytes(task: Task, examples: number): number {
  const { topK, encoding } = task.kd;
  const classes = labelsOf(task).length;
  if (topK >= classes) return encodedByteLength([examples, classes], encoding);
  const indices = 2 * examples * topK;
  return (
    indices +
    encodedByteLength([examples, topK], encoding) +
    encodedByteLength([examples], encoding)
  );
}
