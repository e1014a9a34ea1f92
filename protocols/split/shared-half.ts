// The coordinator's half of a cut model in training where devices share it: a step is made at once, in its turn, clipped by its
// own norm. Waiting for the device's norms, as `half.ts` does, would keep the other devices waiting for a round trip.
import { clipScale } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import { gradientRule } from "../gradient-rule.ts";
import { rateOf, roundMaskKey } from "../plan.ts";
import type { CoordinatorHalf, HalfOptions } from "./half.ts";
import { checkedNorms, stepCount } from "./half-steps.ts";
import { copyOf } from "./parameter-copy.ts";
import type { SharedPart } from "./shared-part.ts";

/**
 * A device's hold on a shared part. The learning rate of a step is the one that the device's own part has in it: counted by the
 * part's own steps, as many times more as there are devices, the schedule would have ended early.
 */
export function sharedHalf(
  part: SharedPart,
  { task, info, deviceId, start }: HalfOptions,
): CoordinatorHalf {
  const adjust = gradientRule(task, start);
  const rateAt = rateOf(task, info);
  const roundKey = roundMaskKey(task, deviceId, info.round);
  const steps = stepCount(task);
  const { optimizer } = part;
  const place = part.turns.join(deviceId);
  const settle: CoordinatorHalf["settle"] = (squares) => {
    const told = Object.keys(squares).length;
    if (told === 0) return;
    throw protocolErrors.error(
      "PROTOCOL_PAYLOAD_INVALID",
      `split: beside a shared part each end clips by its own norm, but ${told} squared norms came`,
    );
  };
  return {
    parameters: optimizer.parameters,
    hold: () => copyOf(optimizer.parameters),
    maskKey: (step) => [...roundKey, step],
    checkStep: steps.check,
    settle,
    inTurn: place.take,
    take: (found, from, loss) => {
      const gradients = adjust(found, from);
      const squares = checkedNorms(steps.made, gradients, loss);
      const scale = clipScale(squares, task.training.maxGradientNorm);
      optimizer.step(gradients, { rate: rateAt(steps.made), scale });
      steps.count();
      return {};
    },
    finish: (up) => {
      steps.checkAll(up);
      settle(up.fields.squares);
      place.leave();
      part.settle();
      return () => part.update;
    },
    close: place.leave,
  };
}
