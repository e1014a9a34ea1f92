// Moving parameters by an update.
import { type Float32Tensor, float32, type Parameters } from "../../runtime/index.ts";
import { checkFinite, shapeMismatch } from "./contributions.ts";
import { forEachLeading, isLeadingPart } from "./factors.ts";

/**
 * The parameters after an update, in memory of their own; a parameter without an update stays the tensor it was. An update of
 * a factor may have fewer ranks than the parameter: the others stay.
 * Throws `PROTOCOL_SHAPE_MISMATCH` on a tensor that the parameters lack and `PROTOCOL_TENSOR_INVALID` when a value overflows.
 */
export function applyUpdate(parameters: Parameters, update: Parameters): Parameters {
  for (const [name, { shape }] of update) {
    const known = parameters.get(name);
    if (!known || !isLeadingPart(name, shape, known.shape)) {
      throw shapeMismatch(`update of ${name}`, shape, known?.shape, [...parameters.keys()]);
    }
  }
  return new Map(
    [...parameters].map(([name, tensor]) => {
      const change = update.get(name);
      return [name, change ? moved(name, tensor, change) : tensor];
    }),
  );
}

function moved(name: string, { shape, data }: Float32Tensor, change: Float32Tensor): Float32Tensor {
  const next = data.slice();
  forEachLeading(change.shape, shape, (at, inWhole) => {
    next[inWhole] = (data[inWhole] as number) + (change.data[at] as number);
  });
  checkFinite(`parameter ${name} after its update`, next);
  return float32(shape, next);
}
