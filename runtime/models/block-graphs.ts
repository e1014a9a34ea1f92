// One block of a model as graphs of its own, its weights fed: the same graph computes every block that carries the
// same adapters, and only one block's weights are in memory.
import { gradients } from "../autodiff/backward.ts";
import type { Value } from "../graph/ir.ts";
import type { FileTensor } from "../tensor.ts";
import { familyOf } from "./families.ts";
import { headParameter, targetedModules } from "./lora.ts";
import {
  assemble,
  type ModelSpec,
  type Parts,
  type Purpose,
  type StepGraph,
  trainedOf,
} from "./partition.ts";
import { weightFeeds } from "./weights.ts";

/** A block's forward pass: `activations` [tokens, hidden] in and out. */
export function blockForwardGraph(spec: ModelSpec, index: number, purpose: Purpose): StepGraph {
  const parts = assembleBlock(spec, index, purpose);
  parts.b.output(parts.hidden);
  return {
    graph: parts.b.build("block-forward"),
    blocks: parts.blocks,
    activations: parts.hidden.name,
    gradients: new Map(),
  };
}

/**
 * A block's backward pass: from `activations` and `cut_gradient`, the gradient behind it, the gradients of its adapters
 * and, when wanted, the one before it. Computes the forward pass again.
 */
export function blockBackwardGraph(
  spec: ModelSpec,
  index: number,
  { wantsInput }: { readonly wantsInput: boolean },
): StepGraph {
  const parts = assembleBlock(spec, index, "training");
  const { b, blocks, entry, hidden } = parts;
  const parameters = trainedOf(parts);
  const gradient = b.input("cut_gradient", "float32", hidden.shape);
  const names = [...parameters.keys()].filter((name) => name !== headParameter);
  const wanted = names.map((name) => parameters.get(name) as Value);
  // Fuses as little as in a whole graph, where the boundary is an output.
  b.output(hidden);
  const found = gradients(
    b,
    [{ value: hidden, gradient }],
    wantsInput ? [...wanted, entry] : wanted,
  );
  for (const value of found) b.output(value);
  const cutGradient = wantsInput ? { cutGradient: (found.at(-1) as Value).name } : {};
  return {
    graph: b.build("block-backward"),
    blocks,
    ...cutGradient,
    gradients: new Map(names.map((name, i) => [name, (found[i] as Value).name])),
  };
}

/** Which layers of each block carry an adapter, as text: blocks of equal text share a graph. Others are absent. */
export function adaptedLayers({ model, lora }: ModelSpec): ReadonlyMap<number, string> {
  const layers = new Map<number, string>();
  for (const { block, path } of targetedModules(model.config, lora)) {
    const inside = path.slice(familyOf(model.config).blockPath(block).length);
    layers.set(block, `${layers.get(block) ?? ""}${inside}`);
  }
  return layers;
}

/** What to feed a graph that was built for block `built` so that it computes with the weights of block `used`. */
export function blockWeightFeeds(
  { model }: ModelSpec,
  built: number,
  used: number,
): ReadonlyMap<string, FileTensor> {
  const feeds = new Map<string, FileTensor>();
  const inBlock = `${familyOf(model.config).blockPath(built)}.`;
  for (const name of model.weights.keys()) {
    if (!name.startsWith(inBlock)) continue;
    for (const [input, place] of weightFeeds(model, name, renumbered(name, built, used))) {
      feeds.set(input, place);
    }
  }
  return feeds;
}

/** The name of block `used` for what block `built` calls `name`: a checkpoint tensor, a parameter or a mask. */
export function renumbered(name: string, built: number, used: number): string {
  // The block's index is the first number between dots in every family's names.
  return name.replace(`.${built}.`, `.${used}.`);
}

function assembleBlock(spec: ModelSpec, index: number, purpose: Purpose): Parts {
  const blocks = { from: index, to: index + 1 };
  return assemble(spec, blocks, { purpose, entry: "activations", weights: "fed" });
}
