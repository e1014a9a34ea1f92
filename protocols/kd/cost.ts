// What a round of `kd` costs a device.
import { trainingMemoryBytes, workloadFlops } from "../../runtime/index.ts";
import { sketchSpec, wholeModelCost } from "../cost.ts";
import { batchCount } from "../local-training.ts";
import { headOf } from "../plan.ts";
import type { CostOptions } from "../protocol.ts";
import type { RoundCost } from "../selection.ts";
import type { Task } from "../task.ts";
import { dropsLogits, isKept } from "./opinion.ts";
import { sliceLength } from "./public-slice.ts";
import { mostKept, packedBytes } from "./top-k.ts";
import type { LogitEncoding } from "./value-codes.ts";

/**
 * Logits of the round's public texts both ways, as in every round after the first; the whole model in memory, and a second
 * step graph to distil with. Bytes of an adaptive k are the most that may travel: the device's allowance or, if that
 * is less, all that a choice may keep.
 */
export function estimateKd(task: Task, options: CostOptions): RoundCost {
  const spec = sketchSpec(task, options.mode);
  const { temperature, distillationSteps, encoding, encodingDown = encoding } = task.kd;
  const distillation = { kind: "step", objective: { kind: "teacher", temperature } } as const;
  const logits = { kind: "logits" } as const;
  const size = sizeOf(task);
  const predictions = batchCount(size.texts, task.training.batchSize);
  const recalled = isKept(size.graphRows, size.classes) ? predictions : distillationSteps;
  const own = dropsLogits(task, size.classes) ? recalled : 0;
  const { allowance } = options;
  return {
    peakMemoryBytes: trainingMemoryBytes(spec, [{ kind: "step" }, distillation, logits]),
    uplinkBytes: logitsBytes(task, size, { encoding, most: allowance?.uplinkBytes }),
    downlinkBytes: logitsBytes(task, size, {
      encoding: encodingDown,
      most: allowance?.downlinkBytes,
    }),
    flops:
      wholeModelCost(task, options).flops +
      distillationSteps * workloadFlops(spec, distillation) +
      (predictions + own) * workloadFlops(spec, logits),
    roundTrips: 2,
  };
}

interface Size {
  readonly texts: number;
  readonly rows: number;
  readonly graphRows: number;
  readonly classes: number;
}

function sizeOf(task: Task): Size {
  const head = headOf(task);
  const texts = sliceLength(task, task.manifest.publicSet?.size ?? 0);
  if (head.kind === "classification")
    return { texts, rows: texts, graphRows: texts, classes: head.classes };
  const { sequenceLength } = task.training;
  const graphRows = texts * sequenceLength;
  return { texts, rows: graphRows, graphRows, classes: task.manifest.config.vocabSize };
}

function logitsBytes(
  task: Task,
  { rows, classes }: Size,
  {
    encoding,
    most = Number.POSITIVE_INFINITY,
  }: { readonly encoding: LogitEncoding; readonly most: number | undefined },
): number {
  const bytes = (kept: number) =>
    packedBytes(new Array<number>(rows).fill(kept), classes, encoding);
  return Math.max(Math.min(bytes(mostKept(task, classes)), most), bytes(1));
}
