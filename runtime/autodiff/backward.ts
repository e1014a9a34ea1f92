// Reverse-mode differentiation of a graph under construction: appends the nodes that compute
// vector-Jacobian products (VJP), using the same operators, so that stock ONNX Runtime runs the result.
import { runtimeErrors } from "../errors.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { dataInputs, type Node, type Value } from "../graph/ir.ts";
import { float32, sameShape } from "../tensor.ts";
import { vjpOf } from "./rules.ts";

/** Where differentiation starts: a value and the gradient that flows into it, of the same shape. */
export interface Seed {
  readonly value: Value;
  readonly gradient: Value;
}

/** The seed of a scalar loss: gradient 1. */
export function lossSeed(builder: GraphBuilder, loss: Value): Seed {
  return { value: loss, gradient: builder.constant(float32(loss.shape, [1]), `one:${loss.name}`) };
}

/**
 * Appends the gradients of the seeded values with respect to each of `wrt` (inputs, initializers or
 * intermediate values), in the order of `wrt`. Only the paths that lead to a wanted value are
 * differentiated. Throws `GRADIENT_UNDEFINED` where no path or no rule exists or a value is no float32.
 */
export function gradients(
  builder: GraphBuilder,
  seeds: readonly Seed[],
  wrt: readonly Value[],
): readonly Value[] {
  for (const { name, dtype, shape } of wrt) {
    if (dtype === "float32") continue;
    throw runtimeErrors.error(
      "GRADIENT_UNDEFINED",
      `only float32 values have gradients, not ${name} ${dtype}[${shape.join(", ")}]`,
    );
  }
  const forward = [...builder.nodes];
  const active = activeValues(forward, wrt);
  const flowing = new Map<string, Value>();
  const add = (value: Value, gradient: Value): void => {
    const known = flowing.get(value.name);
    flowing.set(
      value.name,
      known ? builder.op("Add", [known, gradient], {}, "accumulate") : gradient,
    );
  };
  for (const { value, gradient } of seeds) {
    if (!sameShape(value.shape, gradient.shape)) {
      throw runtimeErrors.error(
        "GRAPH_INVALID",
        `the gradient of ${value.name} has shape [${gradient.shape.join(", ")}], expected [${value.shape.join(", ")}]`,
      );
    }
    add(value, gradient);
  }
  for (const node of forward.toReversed()) {
    differentiate(builder, node, { active, flowing, add });
  }
  return wrt.map((value) => {
    const gradient = flowing.get(value.name);
    if (gradient) return gradient;
    throw runtimeErrors.error(
      "GRADIENT_UNDEFINED",
      `nothing that was seeded depends on ${value.name}`,
    );
  });
}

interface Flow {
  readonly active: ReadonlySet<string>;
  readonly flowing: ReadonlyMap<string, Value>;
  readonly add: (value: Value, gradient: Value) => void;
}

function differentiate(builder: GraphBuilder, node: Node, { active, flowing, add }: Flow): void {
  const outputGradients = node.outputs.map((output) => flowing.get(output.name));
  if (!outputGradients.some(Boolean)) return;
  const read = dataInputs(node).length;
  const needs = node.inputs.map((input, i) => i < read && active.has(input.name));
  if (!needs.includes(true)) return;
  const scope = `grad/${node.outputs[0]?.name ?? node.op}`;
  const inputGradients = builder.scoped(scope, () => vjpOf(builder, node, outputGradients, needs));
  node.inputs.forEach((input, i) => {
    if (!needs[i]) return;
    const gradient = inputGradients[i];
    if (!gradient) {
      throw runtimeErrors.error(
        "GRADIENT_UNDEFINED",
        `${node.op} has no gradient with respect to ${input.name}`,
      );
    }
    builder.scoped(scope, () => add(input, gradient));
  });
}

/** Names of the values that depend on a wanted value (itself included). */
function activeValues(nodes: readonly Node[], wrt: readonly Value[]): Set<string> {
  const active = new Set(wrt.map((value) => value.name));
  for (const node of nodes) {
    if (!dataInputs(node).some((input) => active.has(input.name))) continue;
    for (const output of node.outputs) {
      if (output.dtype === "float32") active.add(output.name);
    }
  }
  return active;
}
