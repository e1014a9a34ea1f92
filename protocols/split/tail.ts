// The tail of one device in one round: its parameters, the step that waits for the front's norms, and
// the foreign tensors on their way into the graphs.
import {
  adamW,
  checkFinite,
  clipScale,
  type Float32Tensor,
  float32,
  labelFeeds,
  maskFeeds,
  type Parameters,
  type Predictor,
  squaredNorms,
  type TensorBundle,
  type TrainingStep,
} from "../../runtime/index.ts";
import { encodeTensor } from "../encoding/index.ts";
import { protocolErrors } from "../errors.ts";
import { decodeOne, difference } from "../payload.ts";
import { rateOf } from "../plan.ts";
import type { RoundInfo } from "../protocol.ts";
import type { Task } from "../task.ts";
import { cutShape, outOfTurn } from "./cut.ts";
import type { SplitDown, SplitUp } from "./messages.ts";

/** The loaded graphs behind one cut layer, shared by the lanes of that cut. */
export interface Tail {
  readonly step: TrainingStep;
  readonly predictor: Predictor;
}

/** A message of one kind. */
type Up<Kind extends SplitUp["kind"]> = Extract<SplitUp, { kind: Kind }>;

/** One device's tail in training. */
export interface TailTrainer {
  /** Steps whose gradients went back. */
  readonly steps: number;
  /** One step forward and backward; the parameters move once the front's norms have come. */
  train(up: Up<"activations">): Promise<SplitDown>;
  /** Logits of hold-out texts. */
  evaluate(up: Up<"evaluate">): Promise<SplitDown>;
  /** Completes the last step and gives what training changed. */
  finish(up: Up<"update">): Parameters;
}

/** A tail that starts from `start`, the global parameters behind the cut. */
export function tailTrainer(
  task: Task,
  tail: Tail,
  start: Parameters,
  info: RoundInfo,
): TailTrainer {
  const { maxGradientNorm, weightDecay } = task.training;
  const optimizer = adamW(start, { weightDecay });
  const rateAt = rateOf(task, info);
  let steps = 0;
  /** The step whose gradients wait for the front's squared norms. */
  let pending: { gradients: Parameters; squares: ReadonlyMap<string, number> } | undefined;

  const settle = (squares: Readonly<Record<string, number>>): void => {
    if (!pending) return;
    const all = new Map([...pending.squares, ...Object.entries(squares)]);
    const scale = clipScale(all, maxGradientNorm);
    optimizer.step(pending.gradients, { rate: rateAt(steps - 1), scale });
    pending = undefined;
  };
  return {
    get steps() {
      return steps;
    },
    train: async (up) => {
      const { step, lengths, labels } = up.fields;
      if (step !== steps) throw outOfTurn(`step ${step} came, step ${steps} was expected`);
      checkLabels(task, labels, lengths);
      const feeds = tailFeeds(task, lengths, decodeActivations(task, up), labels);
      settle(up.fields.squares);
      const { loss, gradients, cutGradient } = await tail.step.run(optimizer.parameters, feeds);
      const squares = squaredNorms(gradients);
      checkFinite(step, loss, squares);
      pending = { gradients, squares };
      steps += 1;
      const fields = { step, loss, squares: Object.fromEntries(squares) };
      return { kind: "gradient", fields, tensors: encodeGradient(task, cutGradient) };
    },
    evaluate: async (up) => {
      const feeds = tailFeeds(task, up.fields.lengths, decodeActivations(task, up));
      settle(up.fields.squares);
      const logits = await tail.predictor.run(optimizer.parameters, feeds);
      const tensors = new Map([["logits", encodeTensor(logits, "float32", { name: "logits" })]]);
      return { kind: "logits", fields: {}, tensors };
    },
    finish: (up) => {
      if (up.fields.steps !== steps) {
        throw outOfTurn(`the device made ${up.fields.steps} steps, the tail ${steps}`);
      }
      settle(up.fields.squares);
      return difference(optimizer.parameters, start);
    },
  };
}

function encodeGradient(task: Task, cutGradient: Float32Tensor | undefined) {
  const shaped = float32(cutShape(task), (cutGradient as Float32Tensor).data);
  return new Map([["gradient", encodeTensor(shaped, task.split.gradients, { name: "gradient" })]]);
}

function decodeActivations(task: Task, up: SplitUp): Float32Tensor {
  const shape = cutShape(task);
  const { data } = decodeOne(up.tensors, "activations", shape);
  return float32([shape[0] * shape[1], shape[2]], data); // [tokens, hidden]
}

function tailFeeds(
  task: Task,
  lengths: readonly number[],
  activations: Float32Tensor,
  labels: readonly number[] = [],
): TensorBundle {
  const { batchSize: batch, sequenceLength: sequence } = task.training;
  if (lengths.length > batch || lengths.some((length) => length > sequence)) {
    const limit = `a batch of ${batch} x ${sequence} tokens`;
    throw protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `lengths exceed ${limit}`);
  }
  return new Map([
    ["activations", activations],
    ...maskFeeds(lengths, { batch, sequence }),
    ...labelFeeds(labels, batch),
  ]);
}

function checkLabels(task: Task, labels: readonly number[], lengths: readonly number[]): void {
  const classes = task.head.labels.length;
  const known = labels.every((label) => label >= 0 && label < classes);
  if (known && labels.length === lengths.length) return;
  const expected = `one class of ${classes} for each text`;
  throw protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `labels must be ${expected}`);
}
