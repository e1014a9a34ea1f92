// Checkpoint tensors as graph values: constants mapped from the weights file, or inputs when they are trained.
import { runtimeErrors } from "../errors.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import type { BaseModel } from "./base-model.ts";

/** A frozen tensor of the base model as a constant; throws `MODEL_TENSOR_MISSING`. */
export function frozenWeight(b: GraphBuilder, model: BaseModel, name: string): Value {
  const location = model.weights.get(name);
  if (!location) {
    throw runtimeErrors.error("MODEL_TENSOR_MISSING", `the weights lack "${name}"`);
  }
  const { shape, offsetBytes, lengthBytes } = location;
  const value: Value = { name, dtype: "float32", shape };
  return b.initializer({
    kind: "external",
    value,
    file: model.weightsFile,
    offsetBytes,
    lengthBytes,
  });
}
