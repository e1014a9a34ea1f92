// Whether a graph hangs together. ONNX Runtime forgives a wrongly declared shape; engines of ours do not.
import { sameShape } from "../tensor.ts";
import type { Graph, Initializer, Value } from "./ir.ts";
import { type OpAttributes, type OpName, shapeRules, type ValueSpec } from "./ops.ts";

/** Throws unless names are unique and every value is made before it is used, with the type and shape that its operator gives. */
export function checkGraph(graph: Graph): void {
  const known = new Map<string, Value>();
  const add = (value: Value) => {
    if (known.has(value.name)) throw new Error(`value ${value.name} is made twice`);
    known.set(value.name, value);
  };
  const need = (value: Value) => {
    const made = known.get(value.name);
    if (!made) throw new Error(`nothing makes value ${value.name}`);
    if (!isLike(made, value)) throw new Error(`${describe(made)} is used as ${describe(value)}`);
  };
  graph.inputs.forEach(add);
  for (const initializer of graph.initializers) {
    checkType(initializer);
    add(initializer.value);
  }
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
      if (!spec || !isLike(spec, output)) {
        throw new Error(`${node.op} does not make ${describe(output)}`);
      }
      add(output);
    });
  }
  graph.outputs.forEach(need);
}

/** Sizes of constants are checked where their bytes are read. */
function checkType(initializer: Initializer): void {
  if (initializer.kind === "external") return;
  const { value, tensor } = initializer;
  const dtype = tensor.dtype === "float64" ? "float32" : tensor.dtype;
  if (dtype !== value.dtype) throw new Error(`constant ${describe(value)} holds ${tensor.dtype}`);
}

function isLike(a: ValueSpec, b: ValueSpec): boolean {
  return a.dtype === b.dtype && sameShape(a.shape, b.shape);
}

function describe({ name, dtype, shape }: Value): string {
  return `${name} ${dtype}[${shape.join(", ")}]`;
}
