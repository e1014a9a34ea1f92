// Estimate of the memory that training adds to an idle process: what must fit a board's budget.

import { graphFlops } from "../graph/flops.ts";
import type { Graph, Initializer } from "../graph/ir.ts";
import { peakIntermediateBytes, valueBytes } from "../graph/memory.ts";
import { blockBackwardGraph, blockForwardGraph, blockWeightFeeds } from "../models/block-graphs.ts";
import {
  frontBackwardGraph,
  frontForwardGraph,
  logitsGraph,
  type ModelSpec,
  type Objective,
  type Purpose,
  stepGraph,
} from "../models/partition.ts";
import { chainFlops } from "./block-chain.ts";

/** What a device loads at once; each is a session or, block by block, the sessions of one. */
export type Workload = HeadWorkload | { readonly kind: "front"; readonly cutLayer: number };

/** A workload that reaches the head. */
export type HeadWorkload =
  | {
      readonly kind: "step";
      readonly objective?: Objective;
      /** Tokens of its batches; the spec's when left out. */
      readonly sequence?: number;
      /** First block of a tail, which is executed whole; 0 when left out. */
      readonly from?: number;
    }
  | { readonly kind: "loss"; readonly from?: number }
  | { readonly kind: "logits"; readonly from?: number };

/**
 * Peak resident bytes above the idle process while these workloads exist and run in turn: the weights they map and
 * each session's arena at its fullest. The constants were fitted on GPT-2 124M and the embedded model (Linux x86-64,
 * Node 20.20, ONNX Runtime 1.30); the `engine` suite of the benchmarks and the demo's report show estimate beside
 * measurement.
 */
export function trainingMemoryBytes(spec: ModelSpec, workloads: readonly Workload[]): number {
  const graphs = workloads.flatMap((workload) => graphsOf(spec, workload));
  // A front is one graph in every mode.
  const inTurns = spec.execution === "blocks" && workloads.every(({ kind }) => kind !== "front");
  const values = inTurns ? valuesInTurns(spec, graphs) : valuesKept(graphs);
  const sessions = graphs.length * sessionBytes;
  return Math.ceil(engineBytes + sessions + mappedBytes(graphs) + values);
}

/** Sessions that keep their arenas: each at its fullest, at the same time. */
function valuesKept(graphs: readonly Graph[]): number {
  const arenas = graphs.reduce((sum, graph) => sum + arenaFactor * peakIntermediateBytes(graph), 0);
  return arenas + dequantisedFactor * largestDequantised(graphs);
}

/** Sessions that keep nothing: the fullest of them, the weights that are fed, and activations on their way. */
function valuesInTurns(spec: ModelSpec, graphs: readonly Graph[]): number {
  const { batch, sequence } = spec;
  const { layers, hiddenSize } = spec.model.config;
  const fullest = Math.max(...graphs.map(peakIntermediateBytes));
  const states = 4 * batch * sequence * hiddenSize * layers;
  const values = heapFactor * fullest + heapDequantisedFactor * largestDequantised(graphs);
  return values + fedBytes(spec) + copiesFactor * states;
}

/** FLOPs of one run of a workload, 2*m*n*k for every matrix product. */
export function workloadFlops(spec: ModelSpec, workload: HeadWorkload): number {
  const { layers } = spec.model.config;
  const sum = (graphs: readonly Graph[]) => graphs.reduce((n, graph) => n + graphFlops(graph), 0);
  if (spec.execution !== "blocks") return sum(graphsOf(spec, workload));
  const chain = chainFlops(spec, { from: 0, to: layers - 1 }, { wantsEntry: false });
  const ends = [frontForwardGraph(spec, 0).graph, headGraph(spec, workload)];
  return sum(ends) + chain.forward + (workload.kind === "step" ? chain.backward : 0);
}

/** Worker thread, ONNX Runtime itself, and JavaScript garbage between collections. */
const engineBytes = 66e6;
/** A session's structures: nodes, kernels, buffers of the binding. */
const sessionBytes = 6e6;
/** ONNX Runtime's arena grows by doubling regions, so it holds more than is live at the fullest moment. */
const arenaFactor = 1.5;
/** The C library's heap, in place of an arena, gives back most of what is not live. */
const heapFactor = 1.4;
const heapDequantisedFactor = 7;
/** What no collection has freed yet of the activations that came back from the worker, in sizes of all blocks' states. */
const copiesFactor = 12;
/** What the arena keeps of the largest dequantised weight, in its sizes: they come and go between other values. */
const dequantisedFactor = 3.5;
/** The kernel maps a file around each place that is read. */
const readAroundBytes = 65_536;

function graphsOf(given: ModelSpec, workload: Workload): readonly Graph[] {
  const { sequence = given.sequence } = workload.kind === "step" ? workload : {};
  const spec = { ...given, sequence };
  const { layers } = spec.model.config;
  switch (workload.kind) {
    case "front": {
      const { cutLayer } = workload;
      const training = [frontForwardGraph(spec, cutLayer), frontBackwardGraph(spec, cutLayer)];
      // Without dropout the forward pass of training serves evaluation too.
      const drops = (spec.lora.dropout ?? 0) > 0;
      const all = drops ? [...training, frontForwardGraph(spec, cutLayer, "evaluation")] : training;
      return all.map(({ graph }) => graph);
    }
    case "loss":
    case "logits":
      if (spec.execution !== "blocks") return [headGraph(spec, workload, workload.from ?? 0)];
      return [...blockForward(spec, "evaluation"), headGraph(spec, workload)];
    case "step": {
      if (spec.execution !== "blocks") return [headGraph(spec, workload, workload.from ?? 0)];
      const backward = [true, false].map(
        (wantsInput) => blockBackwardGraph(spec, layers - 1, { wantsInput }).graph,
      );
      return [...blockForward(spec, "training"), ...backward, headGraph(spec, workload)];
    }
  }
}

/** Blocks [from, last) and the head: the last block alone when left out. */
function headGraph(
  spec: ModelSpec,
  workload: HeadWorkload,
  from = spec.model.config.layers - 1,
): Graph {
  if (workload.kind === "logits") return logitsGraph(spec, { from }).graph;
  if (workload.kind === "loss") return stepGraph(spec, { from, wantsGradients: false }).graph;
  const { objective } = workload;
  return stepGraph(spec, objective === undefined ? { from } : { from, objective }).graph;
}

function blockForward(spec: ModelSpec, purpose: Purpose): readonly Graph[] {
  const last = spec.model.config.layers - 1;
  return [frontForwardGraph(spec, 0).graph, blockForwardGraph(spec, last, purpose).graph];
}

/**
 * Bytes of the weights that are mapped, of tables that rows are gathered from the rows at most. Each session maps the file
 * for itself: the kernel counts a page once for each map, although it is in memory once.
 */
function mappedBytes(graphs: readonly Graph[]): number {
  let mapped = 0;
  for (const graph of graphs) {
    for (const initializer of graph.initializers) mapped += touchedBytes(graph, initializer);
  }
  return mapped;
}

function touchedBytes(graph: Graph, { value }: Initializer): number {
  const uses = graph.nodes.filter(({ inputs }) => inputs.some(({ name }) => name === value.name));
  const rows = uses.map(({ op, inputs }) => {
    const isTable = op === "Gather" && inputs[0]?.name === value.name;
    return isTable ? (inputs[1]?.shape ?? []).reduce((n, size) => n * size, 1) : undefined;
  });
  const read = rows.reduce<number>((sum, count) => sum + (count ?? Number.POSITIVE_INFINITY), 0);
  return Math.min(valueBytes(value), read * readAroundBytes);
}

/** One block's weights, in memory that every block uses again. */
function fedBytes(spec: ModelSpec): number {
  const last = spec.model.config.layers - 1;
  const places = [...blockWeightFeeds(spec, last, last).values()];
  return places.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}

function largestDequantised(graphs: readonly Graph[]): number {
  let largest = 0;
  for (const { nodes } of graphs) {
    for (const { op, outputs } of nodes) {
      const [output] = outputs;
      if (op === "DequantizeLinear" && output) largest = Math.max(largest, valueBytes(output));
    }
  }
  return largest;
}
