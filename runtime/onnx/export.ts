// Graph -> ONNX model, opset 23. What this opset takes as inputs (shapes, axes, sizes) becomes a
// shared int64 initializer. Weights stay in their file; the model only points at them.
import { basename, dirname } from "node:path";
import { runtimeErrors } from "../errors.ts";
import {
  elementBits,
  type Graph,
  type Initializer,
  type Node,
  type NodeOf,
  type Value,
} from "../graph/ir.ts";
import type { OpAttributes, OpName } from "../graph/ops.ts";
import { elementCount, type Tensor } from "../tensor.ts";
import {
  type AttributeValue,
  elementTypes,
  graphProto,
  type Message,
  modelProto,
  nodeProto,
  tensorProto,
  valueInfoProto,
} from "./proto.ts";

const opset = 23;

/** An encoded model and where its weights lie. */
export interface OnnxModel {
  /** A `ModelProto`. */
  readonly model: Uint8Array<ArrayBuffer>;
  /** Folder that external data locations are relative to; undefined when every byte is in `model`. */
  readonly weightsFolder: string | undefined;
}

/** Encodes a graph as an ONNX model; throws `GRAPH_INVALID` when weights files lie in different folders or a constant has the wrong size. */
export function exportOnnx(graph: Graph): OnnxModel {
  const lists = new Map<string, readonly number[]>();
  const nodes = graph.nodes.flatMap((node) => exportNode(node, lists));
  const initializers = [
    ...graph.initializers.map((initializer) => exportInitializer(graph, initializer)),
    ...[...lists].map(([name, values]) => exportList(name, values)),
  ];
  const inputs = graph.inputs.map(valueInfo);
  const outputs = graph.outputs.map(valueInfo);
  return {
    model: modelProto(opset, graphProto(graph.name, { nodes, initializers, inputs, outputs })),
    weightsFolder: findWeightsFolder(graph),
  };
}

/** How opset 23 writes an operator: its attributes, and the lists it takes as further inputs. */
interface Form {
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
  readonly lists?: readonly (readonly number[])[];
}

const forms: { readonly [K in OpName]: (attributes: OpAttributes[K]) => Form } = {
  Add: plain,
  Sub: plain,
  Mul: plain,
  Div: plain,
  Neg: plain,
  Exp: plain,
  Log: plain,
  Sqrt: plain,
  Tanh: plain,
  Sigmoid: plain,
  Gelu: () => ({ attributes: { approximate: { kind: "string", value: "tanh" } } }),
  MatMul: plain,
  Gemm: ({ alpha, transA, transB }) => ({
    attributes: {
      alpha: { kind: "float", value: alpha },
      transA: flag(transA),
      transB: flag(transB),
    },
  }),
  // allowzero: a 0 would otherwise mean "as in the input". Set only where needed, fusions look for its absence.
  Reshape: ({ shape }) => ({
    lists: [shape],
    ...(shape.includes(0) ? { attributes: { allowzero: int(1) } } : {}),
  }),
  Transpose: ({ perm }) => ({ attributes: { perm: { kind: "ints", value: perm } } }),
  Expand: ({ shape }) => ({ lists: [shape] }),
  Concat: onAxis,
  Split: ({ axis, sizes }) => ({ attributes: { axis: int(axis) }, lists: [sizes] }),
  ReduceSum: reduction,
  ReduceMean: reduction,
  // The last axis is the default of Softmax and of both normalisations.
  Softmax: plain,
  LogSumExp: plain,
  LayerNormalization: ({ epsilon }) => ({
    attributes: { epsilon: { kind: "float", value: epsilon } },
  }),
  RMSNormalization: ({ epsilon }) => ({
    attributes: { epsilon: { kind: "float", value: epsilon } },
  }),
  RotaryEmbedding: ({ heads }) => ({ attributes: { num_heads: int(heads) } }),
  Gather: () => ({ attributes: { axis: int(0) } }),
  GatherElements: onAxis,
  ScatterElements: ({ axis }) => ({
    attributes: { axis: int(axis), reduction: { kind: "string", value: "add" } },
  }),
  Cast: ({ to }) => ({ attributes: { to: int(elementTypes[to]) } }),
  DequantizeLinear: ({ blockSize }) => ({
    attributes: { axis: int(0), block_size: int(blockSize) },
  }),
};

function plain(): Form {
  return {};
}

function onAxis({ axis }: OpAttributes["Concat"]): Form {
  return { attributes: { axis: int(axis) } };
}

function reduction({ axes, keepDims }: OpAttributes["ReduceSum"]): Form {
  // Without noop_with_empty_axes, no axes would mean all axes.
  const attributes = { keepdims: flag(keepDims), noop_with_empty_axes: int(1) };
  return { attributes, lists: [axes] };
}

function int(value: number): AttributeValue {
  return { kind: "int", value };
}

function flag(value: boolean): AttributeValue {
  return int(value ? 1 : 0);
}

function exportNode(node: Node, lists: Map<string, readonly number[]>): readonly Message[] {
  if (node.op === "DequantizeLinear") return waitingDequantisation(node, lists);
  if (node.op === "LogSumExp") return logSumExp(node, lists);
  return [plainNode(node, node.inputs, lists)];
}

/**
 * The scales times exp(x - x) = 1 with x the first element of what is waited for: an exact product that exists no
 * earlier. Where x is not finite, neither is the weight, and training stops as diverged anyway.
 */
function waitingDequantisation(
  node: NodeOf<"DequantizeLinear">,
  lists: Map<string, readonly number[]>,
): readonly Message[] {
  const [x, scale, after] = node.inputs as readonly [Value, Value, Value];
  const name = (part: string) => `${node.outputs[0]?.name}/${part}`;
  const value = (part: string, shape: readonly number[]): Value => {
    return { name: name(part), dtype: "float32", shape };
  };
  const named = (op: string, inputs: readonly string[], part: string) =>
    nodeProto(op, inputs, [name(part)], {});
  const first = listName([0], lists);
  const ready = value("scale", scale.shape);
  return [
    named("Reshape", [after.name, listName([elementCount(after.shape)], lists)], "flat"),
    named("Gather", [name("flat"), first], "first"),
    named("Sub", [name("first"), name("first")], "zero"),
    named("Exp", [name("zero")], "one"),
    named("Mul", [scale.name, name("one")], "scale"),
    plainNode(node, [x, ready], lists),
  ];
}

/** max(x) - log(max(softmax(x))): the largest share is at least 1 / width, so the logarithm is of a number far from zero. */
function logSumExp(
  { inputs, outputs }: NodeOf<"LogSumExp">,
  lists: Map<string, readonly number[]>,
): readonly Message[] {
  const [x, sum, shares] = [...inputs, ...outputs] as [Value, Value, Value];
  const lastAxis = listName([x.shape.length - 1], lists);
  const largest = (of: string, name: string) =>
    nodeProto("ReduceMax", [of, lastAxis], [name], { keepdims: flag(false) });
  const name = (part: string) => `${sum.name}/${part}`;
  return [
    largest(x.name, name("max")),
    nodeProto("Softmax", [x.name], [shares.name], {}),
    largest(shares.name, name("share")),
    nodeProto("Log", [name("share")], [name("log")], {}),
    nodeProto("Sub", [name("max"), name("log")], [sum.name], {}),
  ];
}

function listName(values: readonly number[], lists: Map<string, readonly number[]>): string {
  const name = `int64:[${values.join(",")}]`;
  lists.set(name, values);
  return name;
}

function plainNode(
  node: Node,
  inputs: readonly Value[],
  lists: Map<string, readonly number[]>,
): Message {
  // Node is a union tagged by `op`; indexing by the tag gives a union of functions that the compiler cannot pair up.
  const form = (forms[node.op] as (attributes: Node["attributes"]) => Form)(node.attributes);
  const further = (form.lists ?? []).map((values) => listName(values, lists));
  return nodeProto(
    node.op,
    [...inputs.map((value) => value.name), ...further],
    node.outputs.map((value) => value.name),
    form.attributes ?? {},
  );
}

function exportList(name: string, values: readonly number[]): Message {
  const bytes = littleEndian(BigInt64Array.from(values, BigInt));
  return tensorProto(name, elementTypes.int64, [values.length], { kind: "raw", bytes });
}

function exportInitializer(graph: Graph, initializer: Initializer): Message {
  const { name, dtype, shape } = initializer.value;
  if (initializer.kind === "external") {
    const { file, offsetBytes: offset, lengthBytes: length } = initializer;
    checkSize(graph, initializer.value, (8 * length) / elementBits[dtype]);
    const content = { kind: "external", location: basename(file), offset, length } as const;
    return tensorProto(name, elementTypes[dtype], shape, content);
  }
  checkSize(graph, initializer.value, initializer.tensor.data.length);
  const bytes = littleEndian(elementsOf(initializer.tensor));
  return tensorProto(name, elementTypes[dtype], shape, { kind: "raw", bytes });
}

function elementsOf(tensor: Tensor): Float32Array | BigInt64Array | Int8Array {
  return tensor.dtype === "float64" ? Float32Array.from(tensor.data) : tensor.data;
}

/** The bytes as they lie in memory: Node runs on little-endian machines only, as do the boards. */
function littleEndian(elements: Float32Array | BigInt64Array | Int8Array): Uint8Array {
  return new Uint8Array(elements.buffer, elements.byteOffset, elements.byteLength);
}

function valueInfo({ name, dtype, shape }: Value): Message {
  return valueInfoProto(name, elementTypes[dtype], shape);
}

function checkSize(graph: Graph, value: Value, elements: number): void {
  const expected = elementCount(value.shape);
  if (elements === expected) return;
  throw runtimeErrors.error(
    "GRAPH_INVALID",
    `Graph ${graph.name}: constant ${value.name} [${value.shape.join(", ")}] needs ${expected} elements, got ${elements}`,
  );
}

function findWeightsFolder(graph: Graph): string | undefined {
  const folders = new Set<string>();
  for (const initializer of graph.initializers) {
    if (initializer.kind === "external") folders.add(dirname(initializer.file));
  }
  if (folders.size > 1) {
    throw runtimeErrors.error(
      "GRAPH_INVALID",
      `Graph ${graph.name}: weights files lie in ${folders.size} folders, expected one: ${[...folders].join(", ")}`,
      { hint: "Put the weights files of one graph beside each other." },
    );
  }
  return [...folders][0];
}
