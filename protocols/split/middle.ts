// The middle of one device's U-shape in one round: two messages a step, labels and loss stay on the device.
import {
  type Float32Tensor,
  type Middle,
  maskFeeds,
  type Parameters,
  type TensorBundle,
} from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import { outOfTurn } from "../payload.ts";
import { decodeCrossing, encodeCrossing } from "./crossing.ts";
import type { LaneWire } from "./incoming.ts";
import type { SplitDown, Up } from "./messages.ts";
import type { CoordinatorSide, SideOptions } from "./side.ts";

/** A step between its two messages. */
interface OpenStep {
  readonly step: number;
  readonly lengths: readonly number[];
  readonly texts: readonly number[] | undefined;
  readonly feeds: TensorBundle;
  /** Of its forward pass; others may have trained a shared middle since. */
  readonly parameters: Parameters;
}

/** A middle that is trained with one device. */
export function middleSide(middle: Middle, { wire, half }: SideOptions): CoordinatorSide {
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
      return half.inTurn(async () => {
        const parameters = half.hold();
        const states = await middle.forward(parameters, feeds);
        open = { step, lengths, texts, feeds, parameters };
        return answer(states, lengths);
      });
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
      const states = await half.inTurn(() => middle.evaluate(half.parameters, feeds));
      return answer(states, up.fields.lengths);
    },
    finish: half.finish,
    close: half.close,
  };
}

interface BackwardWork extends Pick<SideOptions, "wire" | "half"> {
  readonly middle: Middle;
  readonly open: OpenStep;
}

/** From the gradient at the middle's output to the one at its input. */
async function backward(
  { middle, wire, half, open }: BackwardWork,
  up: Up<"gradient">,
): Promise<SplitDown> {
  const { step, lengths, texts, feeds, parameters } = open;
  const arrived = decodeCrossing(wire.crossings.statesGradient, up.tensors, lengths);
  const { cutGradient, squares } = await half.inTurn(async () => {
    const found = await middle.backward(parameters, feeds, arrived);
    return { ...found, squares: half.take(found.gradients, parameters) };
  });
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
