// The middle of one device's U-shape in one round: two messages a step, labels and loss stay on the device.
import {
  type Float32Tensor,
  type Middle,
  maskFeeds,
  type TensorBundle,
} from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import { outOfTurn } from "../payload.ts";
import { type Crossings, decodeCrossing, encodeCrossing } from "./crossing.ts";
import { type CoordinatorHalf, coordinatorHalf, type HalfOptions } from "./half.ts";
import type { SplitDown, Up } from "./messages.ts";
import { checkLengths } from "./rows.ts";
import type { CoordinatorSide } from "./side.ts";

/** A step between its two messages. */
interface OpenStep {
  readonly step: number;
  readonly lengths: readonly number[];
  readonly feeds: TensorBundle;
}

/** A middle that is trained with one device. */
export function middleSide(
  middle: Middle,
  crossings: Crossings,
  options: HalfOptions,
): CoordinatorSide {
  const half = coordinatorHalf(options);
  let open: OpenStep | undefined;
  const answer = (states: Float32Tensor, lengths: readonly number[]): SplitDown => ({
    kind: "states",
    fields: {},
    tensors: encodeCrossing(crossings.states, states, lengths),
  });
  return {
    activations: async (up) => {
      const { step, lengths, labels, squares } = up.fields;
      if (open) throw gradientExpected(open);
      half.checkStep(step);
      if (labels) throw invalid("a U-shape keeps its labels");
      const feeds = middle.withMasks(middleFeeds(crossings, up), half.maskKey(step));
      half.settle(squares);
      const states = await middle.forward(half.parameters, feeds);
      open = { step, lengths, feeds };
      return answer(states, lengths);
    },
    gradient: async (up) => {
      const { step } = up.fields;
      if (open?.step !== step) throw activationsExpected(open, step);
      const down = await backward({ middle, crossings, half, open }, up);
      open = undefined;
      return down;
    },
    evaluate: async (up) => {
      if (open) throw gradientExpected(open);
      const feeds = middleFeeds(crossings, up);
      half.settle(up.fields.squares);
      return answer(await middle.evaluate(half.parameters, feeds), up.fields.lengths);
    },
    finish: half.finish,
  };
}

interface BackwardWork {
  readonly middle: Middle;
  readonly crossings: Crossings;
  readonly half: CoordinatorHalf;
  readonly open: OpenStep;
}

/** From the gradient at the middle's output to the one at its input. */
async function backward(
  { middle, crossings, half, open }: BackwardWork,
  up: Up<"gradient">,
): Promise<SplitDown> {
  const { step, lengths, feeds } = open;
  const arrived = decodeCrossing(crossings.statesGradient, up.tensors, lengths);
  const { gradients, cutGradient } = await middle.backward(half.parameters, feeds, arrived);
  const squares = half.take(gradients);
  const tensors = encodeCrossing(crossings.cutGradient, cutGradient, lengths);
  return { kind: "gradient", fields: { step, squares }, tensors };
}

function middleFeeds(
  { activations }: Crossings,
  { fields: { lengths }, tensors }: Up<"activations" | "evaluate">,
): TensorBundle {
  const { layout } = activations;
  checkLengths(lengths, layout);
  return new Map([
    ["activations", decodeCrossing(activations, tensors, lengths)],
    ...maskFeeds(lengths, layout),
  ]);
}

function gradientExpected({ step }: OpenStep): Error {
  return outOfTurn(`split: the gradient of step ${step} was expected`);
}

function activationsExpected(open: OpenStep | undefined, step: number): Error {
  const expected = open ? `that of step ${open.step} was` : "activations were";
  return outOfTurn(`split: the gradient of step ${step} came, ${expected} expected`);
}

function invalid(what: string): Error {
  return protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `split: ${what}`);
}
