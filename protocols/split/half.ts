// The coordinator's half of a cut model in training, a device's own: its parameters, and the step that waits for the squared
// norms of the device's half.
import { adamW, clipScale, type Parameters } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import { gradientRule } from "../gradient-rule.ts";
import { difference } from "../payload.ts";
import { rateOf, roundMaskKey, trainedPart } from "../plan.ts";
import type { RoundInfo } from "../protocol.ts";
import type { Task } from "../task.ts";
import { checkedNorms, stepCount } from "./half-steps.ts";
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

/** Parameters that move with the steps of a device, and with those of others where the half is shared. */
export interface CoordinatorHalf {
  /** The current values. */
  readonly parameters: Parameters;
  /** The current values, for a backward pass that comes after other devices' steps. */
  hold(): Parameters;
  /** What names the step's dropout masks. */
  maskKey(step: number): readonly (string | number)[];
  /** Throws `PROTOCOL_OUT_OF_TURN` unless `step` is the one to come. */
  checkStep(step: number): void;
  /** Makes the step that waits, if one does, with the device's squared norms; throws `PROTOCOL_PAYLOAD_INVALID` and moves nothing when they are not those expected. */
  settle(squares: Readonly<Record<string, number>>): void;
  /** Does what reads or moves the parameters when nothing else does. */
  inTurn<T>(work: () => Promise<T>): Promise<T>;
  /** Takes the gradients of a step at `from`; gives the squared norms that the device needs to clip. */
  take(gradients: Parameters, from: Parameters, loss?: number): Readonly<Record<string, number>>;
  /** Completes the last step; what it gives tells what training changed, once the round ends. */
  finish(up: Up<"update">): () => Parameters;
  /** The lane has ended. */
  close(): void;
}

/** A half of the device's own that starts from `start`. Clipping is an uncut model's: the step waits for the device's squared norms. */
export function ownHalf(options: HalfOptions): CoordinatorHalf {
  const { task, info, deviceId, start, deviceNames } = options;
  const { maxGradientNorm, weightDecay } = task.training;
  const optimizer = adamW(start, { weightDecay });
  const adjust = gradientRule(task, start);
  const rateAt = rateOf(task, info);
  const roundKey = roundMaskKey(task, deviceId, info.round);
  const steps = stepCount(task);
  let pending: { gradients: Parameters; squares: ReadonlyMap<string, number> } | undefined;

  const settle: CoordinatorHalf["settle"] = (deviceSquares) => {
    if (!pending) return;
    checkNames(deviceSquares, deviceNames);
    const all = new Map([...pending.squares, ...Object.entries(deviceSquares)]);
    const scale = clipScale(all, maxGradientNorm);
    optimizer.step(pending.gradients, { rate: rateAt(steps.made - 1), scale });
    pending = undefined;
  };
  return {
    parameters: optimizer.parameters,
    // They move at the next step's first message.
    hold: () => optimizer.parameters,
    maskKey: (step) => [...roundKey, step],
    checkStep: steps.check,
    settle,
    inTurn: (work) => work(),
    take: (found, from, loss) => {
      const gradients = adjust(found, from);
      const squares = checkedNorms(steps.made, gradients, loss);
      pending = { gradients, squares };
      steps.count();
      return Object.fromEntries(squares);
    },
    finish: (up) => {
      steps.checkAll(up);
      settle(up.fields.squares);
      const update = difference(trainedPart(task, optimizer.parameters), start);
      return () => update;
    },
    close: () => {},
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
