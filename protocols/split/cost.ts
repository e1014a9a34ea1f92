// What a round of `split` costs a device.
import {
  elementCount,
  frontBackwardGraph,
  frontForwardGraph,
  graphFlops,
  trainingMemoryBytes,
  type Workload,
  workloadFlops,
} from "../../runtime/index.ts";
import { encodedBundleBytes, sketchSpec } from "../cost.ts";
import { encodedByteLength } from "../encoding/index.ts";
import { batchCount } from "../local-training.ts";
import { labelsOf, shapesOf, trainedPart } from "../plan.ts";
import type { CostOptions } from "../protocol.ts";
import type { RoundCost } from "../selection.ts";
import type { Task } from "../task.ts";
import { crossingBytes, crossingsOf } from "./crossing.ts";
import { type Cuts, cutsAt, deviceShapes } from "./cut.ts";
import { mostBytes } from "./row-store.ts";
import { cutLayout } from "./rows.ts";

/**
 * What crosses the cuts in every step and for the hold-out; only the device's part in memory. Texts count as long as
 * the sequence unless `textTokens` says how long they are.
 */
export function estimateSplit(task: Task, options: CostOptions): RoundCost {
  const { cutLayer = 1, holdOut, textTokens = task.training.sequenceLength } = options;
  const cuts = cutsAt(task, cutLayer);
  const { batchSize, localSteps } = task.training;
  const evaluations = batchCount(holdOut, batchSize);
  const bytes = crossedBytes(task, cuts, { holdOut, textTokens });
  const parameters = encodedBundleBytes(trainedPart(task, deviceShapes(task, cuts)), task.full);
  const { step, evaluation } = flopsOf(task, cuts);
  const perStep = cuts.tailFrom === undefined ? 1 : 2;
  return {
    peakMemoryBytes:
      trainingMemoryBytes(sketchSpec(task), workloadsOf(task, cuts)) +
      keptBytes(task, cuts, options) +
      aheadBytes(task, cuts),
    uplinkBytes: parameters + bytes.up,
    downlinkBytes: parameters + bytes.down,
    flops: localSteps * step + evaluations * evaluation,
    roundTrips: perStep * localSteps + evaluations + 2,
  };
}

/** Bytes of all steps and of the hold-out. */
function crossedBytes(
  task: Task,
  cuts: Cuts,
  { holdOut, textTokens }: Required<Pick<CostOptions, "holdOut" | "textTokens">>,
): { readonly up: number; readonly down: number } {
  const { batchSize, localSteps } = task.training;
  const { activations, cutGradient, states, statesGradient } = crossingsOf(task, cuts);
  const trained = (crossing: typeof activations) =>
    localSteps * crossingBytes(crossing, batchSize, textTokens);
  const evaluated = (crossing: typeof activations) => {
    const full = Math.floor(holdOut / batchSize);
    const rest = holdOut % batchSize;
    const last = rest === 0 ? 0 : crossingBytes(crossing, rest, textTokens);
    return full * crossingBytes(crossing, batchSize, textTokens) + last;
  };
  const up = trained(activations) + evaluated(activations);
  if (cuts.tailFrom === undefined) {
    const logits = encodedByteLength([batchSize, labelsOf(task).length], "float32");
    return { up, down: trained(cutGradient) + batchCount(holdOut, batchSize) * logits };
  }
  return {
    up: up + trained(statesGradient),
    down: trained(states) + evaluated(states) + trained(cutGradient),
  };
}

/** Rows that the device keeps, at most: of all texts for reuse, of those it trains with what is owed to them. */
function keptBytes(
  task: Task,
  cuts: Cuts,
  { train, holdOut }: Pick<CostOptions, "train" | "holdOut">,
): number {
  const { reuse, errorFeedback, uShape, cacheBytes } = task.split;
  const { activations, statesGradient } = crossingsOf(task, cuts);
  const rows = { cacheBytes, layout: activations.layout, encoding: "bf16" } as const;
  const owed = { cacheBytes, layout: statesGradient.layout, encoding: "float32" } as const;
  const texts = train === undefined ? undefined : train + holdOut;
  const rowBytes = reuse.threshold === "off" ? 0 : mostBytes(rows, texts);
  return rowBytes + (errorFeedback && uShape ? mostBytes(owed, train) : 0);
}

/** What the next step's forward pass leaves on the device until it is that step's turn: activations, and the front as it was. */
function aheadBytes(task: Task, { cutLayer }: Cuts): number {
  if (!task.split.pipeline) return 0;
  const { batch, sequence, hidden } = cutLayout(task);
  const front = [...shapesOf(task, { from: 0, to: cutLayer }).values()].map(elementCount);
  const values = front.reduce((sum, count) => sum + count, batch * sequence * hidden);
  return Float32Array.BYTES_PER_ELEMENT * values;
}

/** What the device loads. */
function workloadsOf(task: Task, { cutLayer, tailFrom: from }: Cuts): readonly Workload[] {
  const front = { kind: "front", cutLayer } as const;
  if (from === undefined) return [front];
  return [front, { kind: "step", from }, { kind: scoreKind(task), from }];
}

/** What scores a hold-out. */
function scoreKind({ head }: Task): "loss" | "logits" {
  return head.kind === "lm" ? "loss" : "logits";
}

function flopsOf(task: Task, { cutLayer, tailFrom: from }: Cuts) {
  const spec = sketchSpec(task);
  const forward = graphFlops(frontForwardGraph(spec, cutLayer).graph);
  const backward = graphFlops(frontBackwardGraph(spec, cutLayer).graph);
  const of = (kind: "step" | "loss" | "logits") =>
    from === undefined ? 0 : workloadFlops(spec, { kind, from });
  return { step: forward + backward + of("step"), evaluation: forward + of(scoreKind(task)) };
}
