// The tail of one device in one round at the coordinator: from activations to the loss and back.
import {
  type Float32Tensor,
  labelFeeds,
  maskFeeds,
  type Predictor,
  type TensorBundle,
  type TrainingStep,
} from "../../runtime/index.ts";
import { encodeTensor } from "../encoding/index.ts";
import { protocolErrors } from "../errors.ts";
import { labelsOf } from "../plan.ts";
import type { Task } from "../task.ts";
import { type Crossings, decodeCrossing, encodeCrossing } from "./crossing.ts";
import { type CoordinatorHalf, coordinatorHalf, type HalfOptions } from "./half.ts";
import type { SplitDown, Up } from "./messages.ts";
import { checkLengths } from "./rows.ts";
import type { CoordinatorSide } from "./side.ts";

/** The loaded graphs behind one cut layer, shared by the lanes of that cut. */
export interface Tail {
  readonly step: TrainingStep;
  readonly predictor: Predictor;
}

/** A tail that is trained with one device. */
export function tailSide(tail: Tail, crossings: Crossings, options: HalfOptions): CoordinatorSide {
  const half = coordinatorHalf(options);
  const work = { tail, crossings, half, task: options.task };
  return {
    activations: (up) => train(work, up),
    evaluate: async (up) => {
      const feeds = tailFeeds(crossings, up);
      half.settle(up.fields.squares);
      const logits = await tail.predictor.run(half.parameters, feeds);
      const tensors = new Map([["logits", encodeTensor(logits, "float32", { name: "logits" })]]);
      return { kind: "logits", fields: {}, tensors };
    },
    finish: half.finish,
  };
}

interface TailWork {
  readonly task: Task;
  readonly tail: Tail;
  readonly crossings: Crossings;
  readonly half: CoordinatorHalf;
}

/** One step forward and backward; the parameters move once the front's norms have come. */
async function train(
  { task, tail, crossings, half }: TailWork,
  up: Up<"activations">,
): Promise<SplitDown> {
  const { step, lengths, labels = [], squares } = up.fields;
  half.checkStep(step);
  checkLabels(task, labels, lengths);
  const feeds = tailFeeds(crossings, up, labels);
  half.settle(squares);
  const masked = tail.step.withMasks(feeds, half.maskKey(step));
  const { loss, gradients, cutGradient } = await tail.step.run(half.parameters, masked);
  const own = half.take(gradients, loss);
  const tensors = encodeCrossing(crossings.cutGradient, cutGradient as Float32Tensor, lengths);
  return { kind: "gradient", fields: { step, loss, squares: own }, tensors };
}

function tailFeeds(
  { activations }: Crossings,
  { fields: { lengths }, tensors }: Up<"activations" | "evaluate">,
  labels: readonly number[] = [],
): TensorBundle {
  const { layout } = activations;
  checkLengths(lengths, layout);
  return new Map([
    ["activations", decodeCrossing(activations, tensors, lengths)],
    ...maskFeeds(lengths, layout),
    ...labelFeeds(labels, layout.batch),
  ]);
}

function checkLabels(task: Task, labels: readonly number[], lengths: readonly number[]): void {
  const classes = labelsOf(task).length;
  const known = labels.every((label) => label >= 0 && label < classes);
  if (known && labels.length === lengths.length) return;
  throw protocolErrors.error(
    "PROTOCOL_PAYLOAD_INVALID",
    `split: labels must be one class of ${classes} for each text`,
  );
}
