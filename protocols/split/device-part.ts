// What the two shapes of a cut have in common on the device.
import {
  type AdjustGradients,
  type Batch,
  clipScale,
  type MaskKey,
  type Optimizer,
  type Parameters,
  squaredNorms,
} from "../../runtime/index.ts";
import type { HoldOutScore } from "../local-training.ts";
import { outOfTurn } from "../payload.ts";
import type { ClientContext, RoundLink } from "../protocol.ts";
import type { FrontPass } from "./front-pass.ts";
import type { Down, SplitDown, SplitUp } from "./messages.ts";
import type { DeviceWire } from "./outgoing.ts";

/** The device's part of the model, loaded. */
export interface DevicePart {
  /** FLOPs of one training step. */
  readonly flops: number;
  /** Forward, exchange, backward, step; gives the loss. `next` is the step behind it, absent at the last. */
  step(round: DeviceRound, work: StepWork, next: StepWork | undefined): Promise<number>;
  /** What the cut model is worth on the hold-out; undefined without one. */
  score(round: DeviceRound, signal: AbortSignal): Promise<HoldOutScore | undefined>;
  close(): Promise<void>;
}

/** A step of a round. */
export interface StepWork {
  readonly step: number;
  readonly batch: Batch;
  /** Number of each text of its batch among the training texts. */
  readonly texts: readonly number[];
  /** What names its dropout masks. */
  readonly maskKey: MaskKey;
}

/** What the steps of one round share. */
export interface DeviceRound {
  readonly context: ClientContext;
  readonly optimizer: Optimizer;
  readonly adjust: AdjustGradients;
  readonly link: RoundLink<SplitDown, SplitUp>;
  readonly wire: DeviceWire;
  readonly rateAt: (step: number) => number;
  /** The device's squared norms that the coordinator has not seen: its part steps once it has. None where it is shared. */
  squares: Readonly<Record<string, number>>;
  /** The forward pass of the step to come, where it was taken ahead. */
  ahead?: FrontPass | undefined;
}

/** Steps the device's parameters as an uncut model would, with the coordinator's squared norms; it tells none of a shared part. */
export function stepDevice(
  round: DeviceRound,
  { found, from }: FoundGradients,
  { fields: { step, squares } }: Down<"gradient">,
): void {
  const { optimizer, adjust, rateAt, context } = round;
  const gradients = adjust(found, from);
  const own = squaredNorms(gradients);
  const all = new Map([...Object.entries(squares), ...own]);
  const { training, split } = context.task;
  const scale = clipScale(all, training.maxGradientNorm);
  optimizer.step(gradients, { rate: rateAt(step), scale });
  round.squares = split.tails === "shared" ? {} : Object.fromEntries(own);
}

/** The gradients of a step, and the parameters that they were taken at. */
export interface FoundGradients {
  readonly found: Parameters;
  readonly from: Parameters;
}

/** Numbers of `count` hold-out texts from `first` on: they follow those of the training texts. */
export function numbersOf({ train }: ClientContext, first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => train.length + first + i);
}

/** The answer as the kind that it must be; throws `PROTOCOL_OUT_OF_TURN`. */
export function expectKind<Kind extends SplitDown["kind"]>(
  answer: SplitDown,
  kind: Kind,
): Down<Kind> {
  if (answer.kind !== kind) throw unexpected(answer);
  return answer as Down<Kind>;
}

/** The gradient of this step; throws `PROTOCOL_OUT_OF_TURN` for another's. */
export function expectGradient(answer: SplitDown, step: number): Down<"gradient"> {
  const gradient = expectKind(answer, "gradient");
  if (gradient.fields.step !== step) throw unexpected(answer);
  return gradient;
}

/** The error for an answer that does not belong here. */
export function unexpected(message: SplitDown): Error {
  return outOfTurn(`split: "${message.kind}" is not the answer expected now`);
}
