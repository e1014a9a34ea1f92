// The dropout masks of a step: functions of their key and name alone, so that a whole model, a front, its
// recomputed forward pass and a tail see the same ones, in every attempt.
import type { Value } from "../graph/ir.ts";
import { isDropoutMask } from "../models/lora.ts";
import { dropoutMask } from "../random.ts";
import { elementCount, type Float32Tensor, float32, type TensorBundle } from "../tensor.ts";

/** What names the masks of a step beside the tensor: (seed, round, device, step) in a federation. */
export type MaskKey = readonly (string | number)[];

/**
 * The feeds of one step with a mask for every graph input that is one, each value 0 or 1 / (1 - probability); the feeds
 * themselves where a graph has none.
 */
export function withDropoutMasks(
  inputs: readonly Value[],
  probability: number,
  { feeds, key }: { readonly feeds: TensorBundle; readonly key: MaskKey },
): TensorBundle {
  const masks = inputs.filter(({ name }) => isDropoutMask(name));
  if (masks.length === 0) return feeds;
  return new Map([
    ...feeds,
    ...masks.map(({ name, shape }): [string, Float32Tensor] => [
      name,
      float32(shape, dropoutMask(elementCount(shape), probability, [...key, name])),
    ]),
  ]);
}
