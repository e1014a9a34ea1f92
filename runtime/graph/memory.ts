// How much memory a run of a graph needs at its fullest moment, from the lives of its values.
import { elementCount } from "../tensor.ts";
import { elementBits, type Graph, type Node, type Value } from "./ir.ts";

/** Operators whose output may take the place of an input of equal size that nobody needs any more. */
const inPlace: ReadonlySet<Node["op"]> = new Set([
  "Add",
  "Sub",
  "Mul",
  "Div",
  "Neg",
  "Exp",
  "Log",
  "Sqrt",
  "Tanh",
  "Sigmoid",
  "Softmax",
]);

/** Bytes of a value. */
export function valueBytes(value: Value): number {
  return Math.ceil((elementCount(value.shape) * elementBits[value.dtype]) / 8);
}

/**
 * Largest sum of live intermediate values and outputs while the nodes run in order. Inputs and
 * initializers are not counted; a Reshape is a view; element-wise results reuse a dying input's place.
 */
export function peakIntermediateBytes(graph: Graph): number {
  const storage = storages(graph);
  const lastUse = lastUses(graph, storage);
  const live = new Map<string, number>();
  let current = 0;
  let peak = 0;
  const release = (name: string): void => {
    current -= live.get(name) ?? 0;
    live.delete(name);
  };
  graph.nodes.forEach((node, position) => {
    const dying = node.inputs
      .map((input) => storage.get(input.name) as string)
      .filter((name) => live.has(name) && lastUse.get(name) === position);
    const [output] = node.outputs;
    const reusable =
      inPlace.has(node.op) && output && dying.find((name) => live.get(name) === valueBytes(output));
    if (reusable) release(reusable);
    for (const value of node.outputs) {
      if (storage.get(value.name) !== value.name) continue;
      live.set(value.name, valueBytes(value));
      current += valueBytes(value);
    }
    peak = Math.max(peak, current);
    for (const name of dying) release(name);
    for (const value of node.outputs)
      if (lastUse.get(value.name) === undefined) release(value.name);
  });
  return peak;
}

/** The value whose memory each value lies in: its own, or that of what it is a view of. */
function storages(graph: Graph): ReadonlyMap<string, string> {
  const storage = new Map<string, string>();
  for (const value of [
    ...graph.inputs,
    ...graph.initializers.map((initializer) => initializer.value),
  ]) {
    storage.set(value.name, value.name);
  }
  for (const node of graph.nodes) {
    for (const output of node.outputs) {
      const source =
        node.op === "Reshape" ? storage.get((node.inputs[0] as Value).name) : undefined;
      storage.set(output.name, source ?? output.name);
    }
  }
  return storage;
}

/** Position of the last node that reads each storage; outputs of the graph are read at the end. */
function lastUses(graph: Graph, storage: ReadonlyMap<string, string>): ReadonlyMap<string, number> {
  const last = new Map<string, number>();
  graph.nodes.forEach((node, position) => {
    for (const input of node.inputs) last.set(storage.get(input.name) as string, position);
  });
  for (const output of graph.outputs)
    last.set(storage.get(output.name) as string, graph.nodes.length);
  return last;
}
