// Asynchronous federation (FedBuff: Nguyen et al. 2022, arXiv 2106.06639, algorithm 1): every device trains at its own pace,
// and whenever `buffer` updates have come they make the next global model. A round is one filled buffer. What they count is
// `bufferedMean`'s subject. Pure.
import { z } from "zod";
import { compareDeviceIds } from "./aggregation/index.ts";

/** Settings of an asynchronous federation; a task without them is synchronous. */
export const asynchronousOptions = z
  .strictObject({
    /** Updates that make the next global model (K); one device may give several of them. */
    buffer: z.int().positive().default(2),
    /** Most rounds that may be folded while a device trains; an update that missed more of them is dropped. */
    maxStaleness: z.int().nonnegative().default(10),
  })
  .optional();

/** Settings of an asynchronous federation. */
export type AsynchronousSettings = NonNullable<z.output<typeof asynchronousOptions>>;

/** An update as it arrives. */
export interface ArrivedUpdate {
  readonly deviceId: string;
  readonly lane: number;
  /** The round whose model the device started from, which is one more than the rounds that it had folded in. */
  readonly startRound: number;
}

/** An update that will be folded, and where. */
export interface BufferedUpdate {
  readonly deviceId: string;
  readonly lane: number;
  /** The round that it is folded in, for certain. */
  readonly round: number;
  /** Rounds folded between the device's start and this one's fold (tau). */
  readonly staleness: number;
}

/** The round that is filled and what waits to be folded, in order of arrival. */
export interface UpdateBuffer {
  /** From 1. */
  readonly round: number;
  readonly updates: readonly BufferedUpdate[];
}

/** What becomes of an update. */
export type Placement =
  | { readonly kind: "buffered"; readonly update: BufferedUpdate; readonly buffer: UpdateBuffer }
  /** Too stale: it leaves the buffer as it was. */
  | { readonly kind: "dropped"; readonly staleness: number };

/**
 * Gives an update its place, which is final. Those that come while a full buffer is being folded go into the rounds after it, so
 * that the staleness is known at once and a device may commit its state before the fold.
 */
export function placeUpdate(
  buffer: UpdateBuffer,
  { deviceId, lane, startRound }: ArrivedUpdate,
  { buffer: size, maxStaleness }: AsynchronousSettings,
): Placement {
  const round = buffer.round + Math.floor(buffer.updates.length / size);
  const staleness = round - startRound;
  if (staleness > maxStaleness) return { kind: "dropped", staleness };
  const update = { deviceId, lane, round, staleness };
  return { kind: "buffered", update, buffer: { ...buffer, updates: [...buffer.updates, update] } };
}

/** The updates that make the round, in device-id and lane order, once there are enough. */
export function dueUpdates(
  { updates }: UpdateBuffer,
  { buffer: size }: AsynchronousSettings,
): readonly BufferedUpdate[] | undefined {
  if (updates.length < size) return undefined;
  return updates
    .slice(0, size)
    .sort((a, b) => compareDeviceIds(a.deviceId, b.deviceId) || a.lane - b.lane);
}

/** The buffer after its round was folded. */
export function closeBuffer({ round, updates }: UpdateBuffer): UpdateBuffer {
  return { round: round + 1, updates: updates.filter((update) => update.round !== round) };
}
