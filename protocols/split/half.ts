// The coordinator's half of a cut model in training: its parameters, and the step that waits for the squared norms of
// the device's half.
import {
  adamW,
  checkFinite,
  clipScale,
  type Parameters,
  squaredNorms,
} from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import { gradientRule } from "../gradient-rule.ts";
import { difference, outOfTurn } from "../payload.ts";
import { rateOf, roundMaskKey, trainedPart } from "../plan.ts";
import type { RoundInfo } from "../protocol.ts";
import type { Task } from "../task.ts";
import type { Up } from "./messages.ts";

/** What one device's half is trained with. */
export interface HalfOptions {
  readonly task: Task;
  readonly info: RoundInfo;
  readonly deviceId: string;
  /** The global parameters of the half. */
  readonly start: Parameters;
  /** Parameters on the device, whose squared norms it tells. */
  readonly deviceNames: readonly string[];
}

/** Parameters that move once both halves' gradients are known. */
export interface CoordinatorHalf {
  readonly parameters: Parameters;
  /** What names the step's dropout masks. */
  maskKey(step: number): readonly (string | number)[];
  /** Throws `PROTOCOL_OUT_OF_TURN` unless `step` is the one to come. */
  checkStep(step: number): void;
  /** Makes the step that waits, if one does, with the device's squared norms; throws `PROTOCOL_PAYLOAD_INVALID` and moves nothing when they are not all there. */
  settle(squares: Readonly<Record<string, number>>): void;
  /** Takes the gradients of a step, which then waits; gives their squared norms. */
  take(gradients: Parameters, loss?: number): Readonly<Record<string, number>>;
  /** Completes the last step and gives what training changed. */
  finish(up: Up<"update">): Parameters;
}

/** A half that starts from `start`. */
export function coordinatorHalf(options: HalfOptions): CoordinatorHalf {
  const { task, info, deviceId, start, deviceNames } = options;
  const { maxGradientNorm, weightDecay, localSteps } = task.training;
  const optimizer = adamW(start, { weightDecay });
  const adjust = gradientRule(task, start);
  const rateAt = rateOf(task, info);
  const roundKey = roundMaskKey(task, deviceId, info.round);
  let steps = 0;
  let pending: { gradients: Parameters; squares: ReadonlyMap<string, number> } | undefined;

  const settle: CoordinatorHalf["settle"] = (deviceSquares) => {
    if (!pending) return;
    checkNames(deviceSquares, deviceNames);
    const all = new Map([...pending.squares, ...Object.entries(deviceSquares)]);
    const scale = clipScale(all, maxGradientNorm);
    optimizer.step(pending.gradients, { rate: rateAt(steps - 1), scale });
    pending = undefined;
  };
  return {
    parameters: optimizer.parameters,
    maskKey: (step) => [...roundKey, step],
    checkStep: (step) => {
      const expected = steps < localSteps ? `step ${steps} was expected` : "the round has no more";
      if (step !== steps || steps >= localSteps)
        throw outOfTurn(`split: step ${step} came, ${expected}`);
    },
    settle,
    take: (found, loss = 0) => {
      const gradients = adjust(found, optimizer.parameters);
      const squares = squaredNorms(gradients);
      checkFinite(steps, loss, squares);
      pending = { gradients, squares };
      steps += 1;
      return Object.fromEntries(squares);
    },
    finish: (up) => {
      if (up.fields.steps !== steps) {
        throw outOfTurn(
          `split: the device made ${up.fields.steps} steps, the coordinator ${steps}`,
        );
      }
      settle(up.fields.squares);
      return difference(trainedPart(task, optimizer.parameters), start);
    },
  };
}

/** Exactly the device's names: one too many would stand in for a tensor of the coordinator. */
function checkNames(squares: Readonly<Record<string, number>>, names: readonly string[]): void {
  const told = Object.keys(squares);
  if (told.length === names.length && names.every((name) => Object.hasOwn(squares, name))) return;
  throw protocolErrors.error(
    "PROTOCOL_PAYLOAD_INVALID",
    `split: squared norms of ${names.length} device tensors expected, got ${told.length}`,
  );
}
