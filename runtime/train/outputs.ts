// Between sessions and training: what goes in by name, and results as training takes them.
import type { StepGraph } from "../models/partition.ts";
import type { Session } from "../session/engine.ts";
import type { Float32Tensor, Parameters, Tensor, TensorBundle } from "../tensor.ts";

/** A result by its name. Engines of float64 results (the reference) are narrowed here, so that callers see one type. */
export function floatOutput(results: TensorBundle, name: string): Float32Tensor {
  const tensor = results.get(name) as Tensor;
  if (tensor.dtype === "float32") return tensor;
  return { dtype: "float32", shape: tensor.shape, data: Float32Array.from(tensor.data, Number) };
}

/** Exactly the inputs a session declares, from what the caller has. */
export function feedsOf(
  session: Session,
  parameters: Parameters,
  feeds: TensorBundle,
): TensorBundle {
  const chosen = new Map<string, Tensor>();
  for (const { name } of session.graph.inputs) {
    const tensor = parameters.get(name) ?? feeds.get(name);
    if (tensor) chosen.set(name, tensor);
  }
  return chosen;
}

/** A step graph's gradients by parameter name. */
export function namedGradients(step: StepGraph, results: TensorBundle): Parameters {
  return new Map([...step.gradients].map(([name, output]) => [name, floatOutput(results, output)]));
}
