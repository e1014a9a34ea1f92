// Estimate of the memory that training adds to an idle process: what must fit a board's budget.
import type { Graph } from "../graph/ir.ts";
import { peakIntermediateBytes, valueBytes } from "../graph/memory.ts";

/** Worker thread, ONNX Runtime itself, and JavaScript garbage between collections. */
const engineBytes = 66e6;
/** A session's structures: nodes, kernels, buffers of the binding. */
const sessionBytes = 6e6;
/** ONNX Runtime's arena grows by doubling regions, so it holds more than is live at the fullest moment. */
const arenaFactor = 1.5;

/**
 * Peak resident bytes above the idle process while sessions of these graphs exist and run in turn: the
 * weights they share and each session's arena at its fullest. The constants were measured on the embedded
 * model (batch 16 x 96 tokens, one thread, Linux x86-64, Node 20.20, ONNX Runtime 1.30); the demo's report
 * shows estimate beside measurement.
 */
export function trainingMemoryBytes(graphs: readonly Graph[]): number {
  const weights = new Map<string, number>();
  let sessions = 0;
  for (const graph of graphs) {
    for (const { value } of graph.initializers) weights.set(value.name, valueBytes(value));
    sessions += sessionBytes + arenaFactor * peakIntermediateBytes(graph);
  }
  const weightBytes = [...weights.values()].reduce((sum, bytes) => sum + bytes, 0);
  return Math.ceil(engineBytes + weightBytes + sessions);
}
