// Whether a graph hangs together. ONNX Runtime forgives a wrongly declared shape; engines of ours do not.
import { sameShape } from "../tensor.ts";
import type { Graph, Value } from "./ir.ts";
import { type OpAttributes, type OpName, shapeRules, type ValueSpec } from "./ops.ts";

/** Throws unless every value is made before it is used and has the type and shape that its operator gives. */
export function checkGraph(graph: Graph): void {
  const known = new Set<string>();
  const add = (value: Value) => known.add(value.name);
  const need = ({ name }: Value) => {
    if (!known.has(name)) throw new Error(`nothing makes value ${name}`);
  };
  graph.inputs.forEach(add);
  for (const { value } of graph.initializers) add(value);
  for (const node of graph.nodes) {
    node.inputs.forEach(need);
    // The table cannot be paired with the union of nodes except by the tag they share.
    const rule = shapeRules[node.op] as (
      inputs: readonly Value[],
      attributes: OpAttributes[OpName],
    ) => readonly ValueSpec[];
    const specs = rule(node.inputs, node.attributes);
    node.outputs.forEach((output, i) => {
      const spec = specs[i];
      if (!spec || spec.dtype !== output.dtype || !sameShape(spec.shape, output.shape)) {
        throw new Error(`${node.op} does not make ${describe(output)}`);
      }
      add(output);
    });
  }
  graph.outputs.forEach(need);
}

function describe({ name, dtype, shape }: Value): string {
  return `${name} ${dtype}[${shape.join(", ")}]`;
}
