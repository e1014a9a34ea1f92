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
import { gradientRule } from "../gradient-rule.ts";
import { decodeOnly, difference, outOfTurn } from "../payload.ts";
import { labelsOf, rateOf, roundMaskKey } from "../plan.ts";
import type { RoundInfo } from "../protocol.ts";
import type { Task } from "../task.ts";
import { cutShape } from "./cut.ts";
import type { SplitDown, SplitUp } from "./messages.ts";

/** The loaded graphs behind one cut layer, shared by the lanes of that cut. */
export interface Tail {
  readonly step: TrainingStep;
  readonly predictor: Predictor;
}

/** What one device's tail is trained with. */
export interface TailOptions {
  readonly task: Task;
  readonly tail: Tail;
  readonly info: RoundInfo;
  readonly deviceId: string;
  /** The global parameters behind the cut. */
  readonly start: Parameters;
  /** Parameters before the cut, whose squared norms the device tells. */
  readonly frontNames: readonly string[];
}

/** One device's tail in training. Every message is checked before it moves anything. */
export interface TailTrainer {
  /** One step forward and backward; the parameters move once the front's norms have come. */
  train(up: Up<"activations">): Promise<SplitDown>;
  /** Logits of hold-out texts. */
  evaluate(up: Up<"evaluate">): Promise<SplitDown>;
  /** Completes the last step and gives what training changed. */
  finish(up: Up<"update">): Parameters;
}

/** A tail that starts from `start`. */
export function tailTrainer(options: TailOptions): TailTrainer {
  const { task, tail, info, deviceId, start, frontNames } = options;
  const { maxGradientNorm, weightDecay, localSteps } = task.training;
  const optimizer = adamW(start, { weightDecay });
  const adjust = gradientRule(task, start);
  const rateAt = rateOf(task, info);
  const maskKey = roundMaskKey(task, deviceId, info.round);
  let steps = 0;
  /** The step whose gradients wait for the front's squared norms. */
  let pending: { gradients: Parameters; squares: ReadonlyMap<string, number> } | undefined;

  const settle = (frontSquares: Readonly<Record<string, number>>): void => {
    if (!pending) return;
    checkNames(frontSquares, frontNames);
    const all = new Map([...pending.squares, ...Object.entries(frontSquares)]);
    const scale = clipScale(all, maxGradientNorm);
    optimizer.step(pending.gradients, { rate: rateAt(steps - 1), scale });
    pending = undefined;
  };
  return {
    train: async (up) => {
      const { step, lengths, labels } = up.fields;
      const expected = steps < localSteps ? `step ${steps} was expected` : "the round has no more";
      if (step !== steps || steps >= localSteps)
        throw outOfTurn(`split: step ${step} came, ${expected}`);
      checkLabels(task, labels, lengths);
      const feeds = tailFeeds(task, lengths, decodeActivations(task, up), labels);
      settle(up.fields.squares);
      const {
        loss,
        gradients: found,
        cutGradient,
      } = await tail.step.run(optimizer.parameters, tail.step.withMasks(feeds, [...maskKey, step]));
      const gradients = adjust(found, optimizer.parameters);
      const squares = squaredNorms(gradients);
      checkFinite(step, loss, squares);
      const tensors = encodeGradient(task, cutGradient as Float32Tensor);
      pending = { gradients, squares };
      steps += 1;
      return {
        kind: "gradient",
        fields: { step, loss, squares: Object.fromEntries(squares) },
        tensors,
      };
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
        throw outOfTurn(`split: the device made ${up.fields.steps} steps, the tail ${steps}`);
      }
      settle(up.fields.squares);
      return difference(optimizer.parameters, start);
    },
  };
}

/** A message of one kind. */
type Up<Kind extends SplitUp["kind"]> = Extract<SplitUp, { kind: Kind }>;

function encodeGradient(task: Task, cutGradient: Float32Tensor) {
  const shaped = float32(cutShape(task), cutGradient.data);
  const { gradients, keepFraction } = task.split;
  const options = { name: "gradient", keepFraction };
  return new Map([["gradient", encodeTensor(shaped, gradients, options)]]);
}

function decodeActivations(task: Task, up: SplitUp): Float32Tensor {
  const [rows, sequence, hidden] = cutShape(task);
  const { data } = decodeOnly(up.tensors, "activations", [rows, sequence, hidden]);
  return float32([rows * sequence, hidden], data); // [tokens, hidden]
}

function tailFeeds(
  task: Task,
  lengths: readonly number[],
  activations: Float32Tensor,
  labels: readonly number[] = [],
): TensorBundle {
  const { batchSize: batch, sequenceLength: sequence } = task.training;
  if (lengths.length > batch || lengths.some((length) => length > sequence)) {
    throw invalid(`lengths exceed a batch of ${batch} x ${sequence} tokens`);
  }
  return new Map([
    ["activations", activations],
    ...maskFeeds(lengths, { batch, sequence }),
    ...labelFeeds(labels, batch),
  ]);
}

function checkLabels(task: Task, labels: readonly number[], lengths: readonly number[]): void {
  const classes = labelsOf(task).length;
  const known = labels.every((label) => label >= 0 && label < classes);
  if (known && labels.length === lengths.length) return;
  throw invalid(`labels must be one class of ${classes} for each text`);
}

/** Exactly the front's names: one too many would stand in for a tensor of the tail. */
function checkNames(squares: Readonly<Record<string, number>>, names: readonly string[]): void {
  const told = Object.keys(squares);
  if (told.length === names.length && names.every((name) => Object.hasOwn(squares, name))) return;
  throw invalid(`squared norms of ${names.length} front tensors expected, got ${told.length}`);
}

function invalid(what: string): Error {
  return protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `split: ${what}`);
}
