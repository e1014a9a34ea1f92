// Work in a graph, counted exactly from its nodes.
import { elementCount } from "../tensor.ts";
import type { Graph, Node, Value } from "./ir.ts";

/** FLOPs of one run: 2*m*n*k for every matrix product, nothing for element-wise work. */
export function graphFlops(graph: Graph): number {
  return graph.nodes.reduce((sum, node) => sum + productFlops(node), 0);
}

function productFlops(node: Node): number {
  if (node.op !== "MatMul" && node.op !== "Gemm") return 0;
  const [a] = node.inputs as readonly Value[];
  const output = node.outputs[0] as Value;
  const depth = node.op === "Gemm" && node.attributes.transA ? a?.shape.at(-2) : a?.shape.at(-1);
  return 2 * elementCount(output.shape) * (depth ?? 0);
}
