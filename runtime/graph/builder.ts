// Builds graphs node by node with shapes checked at once. Value names carry a scope (`h.0/attn/...`),
// so that a node of a loaded model can be found from its name.
import { isDeepStrictEqual } from "node:util";
import { runtimeErrors } from "../errors.ts";
import { type Float32Tensor, float32, type Int64Tensor, type Tensor } from "../tensor.ts";
import type { Graph, Initializer, Node, Value, ValueType } from "./ir.ts";
import { type OpAttributes, type OpName, shapeRules } from "./ops.ts";

/** A graph under construction. */
export interface GraphBuilder {
  /** Declares an input fed at every run. */
  input(name: string, dtype: ValueType, shape: readonly number[]): Value;
  /** Adds a constant whose bytes live in the graph or in a weights file; throws `GRAPH_INVALID` where its name is another's. */
  initializer(initializer: Initializer): Value;
  /** A small constant; equal ones of one name are shared, as are equal scalars. */
  constant(tensor: Float32Tensor | Int64Tensor, name?: string): Value;
  scalar(value: number): Value;
  /** Applies an operator and gives its outputs. */
  apply<K extends OpName>(
    op: K,
    inputs: readonly Value[],
    attributes: OpAttributes[K],
    name?: string,
  ): readonly Value[];
  /** Applies an operator and gives its first output. */
  op<K extends OpName>(
    op: K,
    inputs: readonly Value[],
    attributes: OpAttributes[K],
    name?: string,
  ): Value;
  /** Renames nothing: declares an existing value as an output. Declaring twice is harmless. */
  output(value: Value): void;
  /** Names of values made while `build` runs start with `scope/`. */
  scoped<T>(scope: string, build: () => T): T;
  /** The nodes so far, in order. */
  readonly nodes: readonly Node[];
  /** The finished graph: only what its outputs need. */
  build(name: string): Graph;
}

/** An empty graph to build on. */
export function graphBuilder(): GraphBuilder {
  const inputs: Value[] = [];
  const outputs = new Map<string, Value>();
  const initializers = new Map<string, Initializer>();
  const nodes: Node[] = [];
  const scopes: string[] = [];
  const taken = new Set<string>();

  const unique = (base: string): string => {
    const path = [...scopes, base].join("/");
    let name = path;
    for (let i = 2; taken.has(name); i++) name = `${path}_${i}`;
    taken.add(name);
    return name;
  };
  const addInitializer = (initializer: Initializer): Value => {
    const known = initializers.get(initializer.value.name);
    if (known) return shared(known, initializer);
    taken.add(initializer.value.name);
    initializers.set(initializer.value.name, initializer);
    return initializer.value;
  };
  const constant = (tensor: Float32Tensor | Int64Tensor, name?: string): Value => {
    const value: Value = {
      name: name ?? unique("constant"),
      dtype: tensor.dtype,
      shape: tensor.shape,
    };
    return addInitializer({ kind: "inline", value, tensor: tensor as Tensor });
  };
  const apply: GraphBuilder["apply"] = (op, nodeInputs, attributes, name) => {
    const specs = shapeRules[op](nodeInputs, attributes);
    const made = specs.map((spec) => ({ ...spec, name: unique(name ?? op) }));
    // The union of nodes is tagged by `op`; a generic K cannot show the compiler that the tag matches.
    nodes.push({ op, inputs: nodeInputs, outputs: made, attributes } as unknown as Node);
    return made;
  };
  return {
    nodes,
    input: (name, dtype, shape) => {
      const value = { name, dtype, shape };
      taken.add(name);
      inputs.push(value);
      return value;
    },
    initializer: addInitializer,
    constant,
    // -0 + 0 is 0: both print as "0", and the sign of a scalar zero means nothing here.
    scalar: (value) => constant(float32([], [value + 0]), `scalar:${value}`),
    apply,
    op: (op, nodeInputs, attributes, name) => apply(op, nodeInputs, attributes, name)[0] as Value,
    output: (value) => void outputs.set(value.name, value),
    scoped: (scope, build) => {
      scopes.push(scope);
      try {
        return build();
      } finally {
        scopes.pop();
      }
    },
    build: (name) =>
      prune({
        name,
        inputs,
        outputs: [...outputs.values()],
        initializers: [...initializers.values()],
        nodes,
      }),
  };
}

/** The value of a constant that is declared again. */
function shared(known: Initializer, again: Initializer): Value {
  if (isDeepStrictEqual(known, again)) return known.value;
  const { name } = known.value;
  throw runtimeErrors.error("GRAPH_INVALID", `${name} already names another constant`, {
    hint: "Leave the name out, or give each constant its own.",
  });
}

/** Drops nodes, initializers and inputs that no output needs. */
function prune(graph: Graph): Graph {
  const needed = new Set(graph.outputs.map((value) => value.name));
  const nodes: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    if (!node.outputs.some((value) => needed.has(value.name))) continue;
    nodes.push(node);
    for (const input of node.inputs) needed.add(input.name);
  }
  return {
    ...graph,
    inputs: graph.inputs.filter((value) => needed.has(value.name)),
    initializers: graph.initializers.filter(({ value }) => needed.has(value.name)),
    nodes: nodes.reverse(),
  };
}
