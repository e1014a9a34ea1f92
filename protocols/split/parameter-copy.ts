// Parameters as they are now: a backward pass is taken where its forward pass was (weight stashing; Narayanan et al. 2019,
// PipeDream, SOSP, section 3.3), though steps have moved them since.
import { float32, type Parameters } from "../../runtime/index.ts";

/** Tensors with values of their own. */
export function copyOf(parameters: Parameters): Parameters {
  return new Map(
    [...parameters].map(([name, { shape, data }]) => [name, float32(shape, data.slice())]),
  );
}
