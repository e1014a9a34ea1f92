// The slow engine that tests trust: interprets a graph in plain TypeScript, float64 inside.
import { type FileHandle, open } from "node:fs/promises";
import { runtimeErrors } from "../errors.ts";
import type { Engine, Session } from "../session/engine.ts";
import { checkFeeds, chooseOutputs } from "../session/feeds.ts";
import { elementCount, type FileTensor, type Tensor } from "../tensor.ts";
import { checkGraph } from "./check.ts";
import type { Graph, Initializer, Node, Value } from "./ir.ts";
import type { OpAttributes, OpName } from "./ops.ts";
import type { Dense } from "./reference-dense.ts";
import { kernels } from "./reference-kernels.ts";

/**
 * An engine that interprets. It takes float32 or float64 tensors for float32 inputs and gives float64 back,
 * so that finite differences keep their digits. Computes on the calling thread.
 */
export function referenceEngine(): Engine {
  let closed = false;
  return {
    name: "reference",
    load: async (graph) => {
      if (closed) throw failure(graph, new Error("The engine is closed"));
      try {
        checkGraph(graph);
        const constants = await readConstants(graph);
        return referenceSession(graph, constants, () => closed);
      } catch (cause) {
        throw failure(graph, cause);
      }
    },
    close: async () => {
      closed = true;
    },
  };
}

function referenceSession(
  graph: Graph,
  constants: ReadonlyMap<string, Dense>,
  engineClosed: () => boolean,
): Session {
  let closed = false;
  return {
    graph,
    run: async (feeds, outputs) => {
      if (closed || engineClosed()) throw failure(graph, new Error("The session is closed"));
      checkFeeds(graph, feeds, ["float32", "float64"]);
      const wanted = chooseOutputs(graph, outputs);
      const values = new Map(constants);
      try {
        // All are copied before any is waited for: the caller may write into them once this function returns.
        const copies = [...feeds].map(
          async ([name, feed]) => [name, await fed(name, feed)] as const,
        );
        for (const [name, copy] of await Promise.all(copies)) values.set(name, copy);
        for (const node of graph.nodes) interpret(node, values);
        return new Map(wanted.map((value) => [value.name, toTensor(value, find(values, value))]));
      } catch (cause) {
        throw failure(graph, cause);
      }
    },
    close: async () => {
      closed = true;
    },
  };
}

function interpret(node: Node, values: Map<string, Dense>): void {
  const inputs = node.inputs.map((value) => find(values, value));
  // Node is a union tagged by `op`; the table cannot be paired with it except by its tag.
  const kernel = kernels[node.op] as (
    inputs: readonly Dense[],
    attributes: OpAttributes[OpName],
    outputs: readonly Value[],
  ) => readonly Float64Array[];
  const results = kernel(inputs, node.attributes, node.outputs);
  node.outputs.forEach(({ name, shape }, i) => {
    values.set(name, { shape, data: results[i] as Float64Array });
  });
}

async function readConstants(graph: Graph): Promise<Map<string, Dense>> {
  const constants = new Map<string, Dense>();
  const files = new Map<string, FileHandle>();
  try {
    for (const initializer of graph.initializers) {
      const dense = await readConstant(initializer, files);
      const { value } = initializer;
      if (dense.data.length !== elementCount(value.shape)) {
        throw new Error(`constant ${describe(value)} has ${dense.data.length} elements`);
      }
      constants.set(value.name, dense);
    }
    return constants;
  } finally {
    for (const file of files.values()) await file.close();
  }
}

async function readConstant(
  initializer: Initializer,
  files: Map<string, FileHandle>,
): Promise<Dense> {
  const { value } = initializer;
  if (initializer.kind === "inline")
    return { ...fromTensor(initializer.tensor), shape: value.shape };
  const file = files.get(initializer.file) ?? (await open(initializer.file));
  files.set(initializer.file, file);
  return await readSlice(value, initializer, file);
}

async function fed(name: string, feed: Tensor | FileTensor): Promise<Dense> {
  if ("data" in feed) return fromTensor(feed);
  const file = await open(feed.file);
  try {
    return await readSlice({ ...feed, name }, feed, file);
  } finally {
    await file.close();
  }
}

async function readSlice(
  value: Value,
  { file: path, offsetBytes, lengthBytes }: Omit<FileTensor, "dtype" | "shape">,
  file: FileHandle,
): Promise<Dense> {
  const bytes = new Uint8Array(lengthBytes);
  const { bytesRead } = await file.read(bytes, 0, lengthBytes, offsetBytes);
  if (bytesRead !== lengthBytes) {
    throw new Error(`${value.name} needs ${lengthBytes} bytes of ${path}, got ${bytesRead}`);
  }
  return { shape: value.shape, data: numbersOf(value, bytes) };
}

/** The elements of a weights file's bytes. */
function numbersOf({ name, dtype }: Value, bytes: Uint8Array<ArrayBuffer>): Float64Array {
  switch (dtype) {
    case "float32":
      return Float64Array.from(new Float32Array(bytes.buffer));
    case "int8":
      return Float64Array.from(new Int8Array(bytes.buffer));
    case "int4":
      // Shifting up and down again extends the sign of each half.
      return Float64Array.from({ length: 2 * bytes.length }, (_, i) =>
        i % 2 === 0
          ? ((bytes[i >> 1] as number) << 28) >> 28
          : ((bytes[i >> 1] as number) << 24) >> 28,
      );
    default:
      throw new Error(`${name} is ${dtype}, files hold float32, int8 or int4`);
  }
}

function fromTensor(tensor: Tensor): Dense {
  const { shape, data } = tensor;
  const isWhole = data instanceof BigInt64Array;
  return { shape, data: isWhole ? Float64Array.from(data, Number) : Float64Array.from(data) };
}

function toTensor(value: Value, { shape, data }: Dense): Tensor {
  switch (value.dtype) {
    case "float32":
      return { dtype: "float64", shape, data: data.slice() };
    case "int64":
      return { dtype: "int64", shape, data: BigInt64Array.from(data, BigInt) };
    default:
      throw new Error(`output ${value.name} is ${value.dtype}, expected float32 or int64`);
  }
}

function find(values: ReadonlyMap<string, Dense>, { name }: Value): Dense {
  const found = values.get(name);
  if (!found) throw new Error(`value ${name} is not known yet`);
  return found;
}

function describe({ name, dtype, shape }: Value): string {
  return `${name} ${dtype}[${shape.join(", ")}]`;
}

function failure(graph: Graph, cause: unknown): Error {
  const text = cause instanceof Error ? cause.message : String(cause);
  return runtimeErrors.error("SESSION_FAILED", `Graph ${graph.name}: ${text}`, { cause });
}
