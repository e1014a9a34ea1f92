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
import type { LaneWire } from "./incoming.ts";
import type { SplitDown, Up } from "./messages.ts";
import type { CoordinatorSide, SideOptions } from "./side.ts";

/** The loaded graphs behind one cut layer, shared by the lanes of that cut. */
export interface Tail {
  readonly step: TrainingStep;
  readonly predictor: Predictor;
}

/** A tail that is trained with one device. */
export function tailSide(tail: Tail, options: SideOptions): CoordinatorSide {
  const { wire, half } = options;
  const work = { tail, ...options };
  return {
    activations: (up) => train(work, up),
    evaluate: async (up) => {
      const { activations, keep } = wire.receive(up);
      half.settle(up.fields.squares);
      keep();
      const feeds = tailFeeds(wire, activations, up);
      const logits = await half.inTurn(() => tail.predictor.run(half.parameters, feeds));
      const tensors = new Map([["logits", encodeTensor(logits, "float32", { name: "logits" })]]);
      return { kind: "logits", fields: {}, tensors };
    },
    finish: half.finish,
    close: half.close,
  };
}

interface TailWork extends SideOptions {
  readonly tail: Tail;
}

/** One step forward and backward; a half of the device's own moves once the front's norms have come. */
async function train(
  { task, tail, wire, half }: TailWork,
  up: Up<"activations">,
): Promise<SplitDown> {
  const { step, lengths, texts, labels = [], squares } = up.fields;
  half.checkStep(step);
  checkLabels(task, labels, lengths);
  const { activations, keep } = wire.receive(up);
  half.settle(squares);
  keep();
  const feeds = tailFeeds(wire, activations, up);
  const masked = tail.step.withMasks(feeds, half.maskKey(step));
  const { loss, cutGradient, own } = await half.inTurn(async () => {
    const found = await tail.step.run(half.parameters, masked);
    return { ...found, own: half.take(found.gradients, half.parameters, found.loss) };
  });
  const tensors = wire.cutGradients.encode(cutGradient as Float32Tensor, { lengths, texts });
  return { kind: "gradient", fields: { step, loss, squares: own }, tensors };
}

function tailFeeds(
  { crossings }: LaneWire,
  activations: Float32Tensor,
  up: Up<"activations"> | Up<"evaluate">,
): TensorBundle {
  const { layout } = crossings.activations;
  const labels = up.kind === "activations" ? (up.fields.labels ?? []) : [];
  return new Map([
    ["activations", activations],
    ...maskFeeds(up.fields.lengths, layout),
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
