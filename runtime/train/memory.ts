// Estimate of the memory that training adds to an idle process: what must fit a board's budget.
import type { Graph } from "../graph/ir.ts";
import { peakIntermediateBytes, valueBytes } from "../graph/memory.ts";

/** Worker thread, ONNX Runtime's own structures and JavaScript garbage, measured on the embedded model. */
const engineBytes = 40 * 2 ** 20;

/**
 * Peak resident bytes above the idle process while sessions of these graphs exist and run in turn:
 * the weights they share, each session's arena at its fullest, and inputs and outputs in flight.
 */
export function trainingMemoryBytes(graphs: readonly Graph[]): number {
  const weights = new Map<string, number>();
  let arenas = 0;
  let inFlight = 0;
  for (const graph of graphs) {
    for (const { value } of graph.initializers) weights.set(value.name, valueBytes(value));
    arenas += peakIntermediateBytes(graph);
    const ends = [...graph.inputs, ...graph.outputs];
    inFlight = Math.max(inFlight, 2 * ends.reduce((sum, value) => sum + valueBytes(value), 0));
  }
  const weightBytes = [...weights.values()].reduce((sum, bytes) => sum + bytes, 0);
  return engineBytes + weightBytes + arenas + inFlight;
}
