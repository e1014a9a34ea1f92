// Values that share a scale in int8: a channel is an index of one axis, or the whole tensor.
import { elementCount } from "../../runtime/index.ts";
import type { ScaleAxis } from "./encoded.ts";

/** Channels change every `inner` values and repeat after `channels` changes. */
export interface Layout {
  readonly channels: number;
  readonly inner: number;
}

/** How the channels of an axis lie in a flattened tensor. */
export function layoutOf(shape: readonly number[], axis: ScaleAxis): Layout {
  if (axis === "none") return { channels: 1, inner: elementCount(shape) };
  return { channels: channelsOf(shape, axis), inner: elementCount(shape.slice(axis + 1)) };
}

/** Number of scales. */
export function channelsOf(shape: readonly number[], axis: ScaleAxis): number {
  return axis === "none" ? 1 : (shape[axis] ?? 1);
}
