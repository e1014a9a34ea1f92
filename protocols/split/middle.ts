// The middle of one device's U-shape in one round: two messages a step, labels and loss stay on the device.
import {
  type Float32Tensor,
  type Middle,
  maskFeeds,
  type TensorBundle,
} from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import { outOfTurn } from "../payload.ts";
import { decodeCrossing, encodeCrossing } from "./crossing.ts";
import { type CoordinatorHalf, coordinatorHalf, type HalfOptions } from "./half.ts";
import type { LaneWire } from "./incoming.ts";
import type { SplitDown, Up } from "./messages.ts";
import type { CoordinatorSide } from "./side.ts";

/** A step between its two messages. */
interface OpenStep {
  readonly step: number;
  readonly lengths: readonly number[];
  readonly texts: readonly number[] | undefined;
  readonly feeds: TensorBundle;
}

/** A middle that is trained with one device. */
export function middleSide(middle: Middle, wire: LaneWire, options: HalfOptions): CoordinatorSide {
  const half = coordinatorHalf(options);
  let open: OpenStep | undefined;
  const answer = (states: Float32Tensor, lengths: readonly number[]): SplitDown => ({
    kind: "states",
    fields: {},
    tensors: encodeCrossing(wire.crossings.states, states, lengths),
  });
  return {
    activations: async (up) => {
      const { step, lengths, texts, labels, squares } = up.fields;
      if (open) throw gradientExpected(open);
      half.checkStep(step);
      if (labels) throw invalid("a U-shape keeps its labels");
      const { activations, keep } = wire.receive(up);
      half.settle(squares);
      keep();
      const feeds = middle.withMasks(middleFeeds(wire, activations, up), half.maskKey(step));
      const states = await middle.forward(half.parameters, feeds);
      open = { step, lengths, texts, feeds };
      return answer(states, lengths);
    },
    gradient: async (up) => {
      const { step } = up.fields;
      if (open?.step !== step) throw activationsExpected(open, step);
      const down = await backward({ middle, wire, half, open }, up);
      open = undefined;
      return down;
    },
    evaluate: async (up) => {
      if (open) throw gradientExpected(open);
      const { activations, keep } = wire.receive(up);
      half.settle(up.fields.squares);
      keep();
      const feeds = middleFeeds(wire, activations, up);
      return answer(await middle.evaluate(half.parameters, feeds), up.fields.lengths);
    },
    finish: half.finish,
  };
}

interface BackwardWork {
  readonly middle: Middle;
  readonly wire: LaneWire;
  readonly half: CoordinatorHalf;
  readonly open: OpenStep;
}

/** From the gradient at the middle's output to the one at its input. */
async function backward(
  { middle, wire, half, open }: BackwardWork,
  up: Up<"gradient">,
): Promise<SplitDown> {
  const { step, lengths, texts, feeds } = open;
  const arrived = decodeCrossing(wire.crossings.statesGradient, up.tensors, lengths);
  const { gradients, cutGradient } = await middle.backward(half.parameters, feeds, arrived);
  const squares = half.take(gradients);
  const tensors = wire.cutGradients.encode(cutGradient, { lengths, texts });
  return { kind: "gradient", fields: { step, squares }, tensors };
}

function middleFeeds(
  { crossings }: LaneWire,
  activations: Float32Tensor,
  { fields: { lengths } }: Up<"activations" | "evaluate">,
): TensorBundle {
  const { layout } = crossings.activations;
  return new Map([["activations", activations], ...maskFeeds(lengths, layout)]);
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
