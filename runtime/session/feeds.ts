// What may go into a session, checked before anything is computed; the same for every engine.
import { runtimeErrors } from "../errors.ts";
import { elementBits, type Graph, type Value } from "../graph/ir.ts";
import { elementCount, type FileTensor, sameShape, type Tensor } from "../tensor.ts";
import type { Feeds } from "./engine.ts";

/** Throws `SESSION_FEED_INVALID` unless there is one fitting tensor for every input; `floats` are the types accepted for float32 inputs. */
export function checkFeeds(
  graph: Graph,
  feeds: Feeds,
  floats: readonly Tensor["dtype"][] = ["float32"],
): void {
  for (const input of graph.inputs) {
    const feed = feeds.get(input.name);
    if (!feed) throw invalid(graph, `input ${describe(input)} is missing`);
    const types = input.dtype === "float32" ? floats : [input.dtype];
    const elements = elementCount(input.shape);
    if (!types.some((type) => type === feed.dtype) || !sameShape(feed.shape, input.shape)) {
      throw invalid(graph, `input ${input.name} must be ${typeOf(input)}, got ${typeOf(feed)}`);
    }
    const fed = fedElements(feed);
    if (fed !== elements) {
      throw invalid(graph, `input ${describe(input)} needs ${elements} elements, got ${fed}`);
    }
  }
  const known = graph.inputs.map((input) => input.name);
  for (const name of feeds.keys()) {
    if (!known.includes(name)) throw invalid(graph, `no input is named ${name}`, known);
  }
}

/** The outputs asked for, each once, all when left out; throws `SESSION_FEED_INVALID` on an unknown one. */
export function chooseOutputs(graph: Graph, outputs?: readonly string[]): readonly Value[] {
  if (!outputs) return graph.outputs;
  return [...new Set(outputs)].map((name) => {
    const output = graph.outputs.find((value) => value.name === name);
    if (output) return output;
    throw invalid(
      graph,
      `no output is named ${name}`,
      graph.outputs.map((value) => value.name),
    );
  });
}

function fedElements(feed: Tensor | FileTensor): number {
  return "data" in feed ? feed.data.length : (8 * feed.lengthBytes) / elementBits[feed.dtype];
}

function describe(value: Value): string {
  return `${value.name} ${typeOf(value)}`;
}

function typeOf({ dtype, shape }: Pick<Value | Tensor | FileTensor, "dtype" | "shape">): string {
  return `${dtype}[${shape.join(", ")}]`;
}

function invalid(graph: Graph, text: string, names?: readonly string[]): Error {
  const hint = names ? { hint: `Names: ${names.join(", ") || "none"}.` } : {};
  return runtimeErrors.error("SESSION_FEED_INVALID", `Graph ${graph.name}: ${text}`, hint);
}
