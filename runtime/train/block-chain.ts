// Blocks computed one after another by sessions that they share: forward keeps what enters each block, backward
// computes each block's forward pass again. One block's weights and one block's intermediate values are in memory.
import { graphFlops } from "../graph/flops.ts";
import type { Value } from "../graph/ir.ts";
import {
  adaptedLayers,
  blockBackwardGraph,
  blockForwardGraph,
  blockWeightFeeds,
  renumbered,
} from "../models/block-graphs.ts";
import { isDropoutMask } from "../models/lora.ts";
import type { BlockRange, ModelSpec, Purpose, StepGraph } from "../models/partition.ts";
import type { Engine, Feeds, Session } from "../session/engine.ts";
import type { FileTensor, Float32Tensor, Parameters, Tensor, TensorBundle } from "../tensor.ts";
import { floatOutput } from "./outputs.ts";

/** Blocks [from, to) of a model. */
export interface BlockChain {
  /** FLOPs of a forward pass, and of the backward pass that follows it. */
  readonly forwardFlops: number;
  readonly backwardFlops: number;
  /** Dropout masks that training feeds, by the names and shapes of a whole graph's inputs. */
  readonly masks: readonly Value[];
  /** What enters each block and, last, what leaves the last; each [tokens, hidden]. */
  forward(
    parameters: Parameters,
    feeds: TensorBundle,
    entry: Float32Tensor,
  ): Promise<readonly Float32Tensor[]>;
  /** Gradients by parameter name, from the states of `forward` and the gradient behind the last block. */
  backward(
    parameters: Parameters,
    feeds: TensorBundle,
    states: readonly Float32Tensor[],
    gradient: Float32Tensor,
  ): Promise<ChainGradients>;
  close(): Promise<void>;
}

/** What a backward pass gives. */
export interface ChainGradients {
  readonly gradients: Parameters;
  /** Before the first block, [tokens, hidden]; where it was wanted. */
  readonly entryGradient?: Float32Tensor;
}

/** Loads the sessions of blocks [from, to); with `wantsEntry` the backward pass goes on to the gradient of what enters. */
export async function loadBlockChain(
  engine: Engine,
  spec: ModelSpec,
  range: BlockRange,
  { wantsEntry, purpose }: { readonly wantsEntry: boolean; readonly purpose: Purpose },
): Promise<BlockChain> {
  const plan = planOf(spec, range, wantsEntry);
  const pool = sessionPool(engine, spec, purpose);
  await pool.loadAll(plan);
  const run = async (block: PlannedBlock, direction: Direction, feeds: TensorBundle) => {
    const { step, session, built } = pool.find(block, direction);
    const wanted = [step.activations, step.cutGradient, ...step.gradients.values()];
    // What is an output only to keep operators from being fused stays in the worker.
    const outputs = wanted.filter((name) => name !== undefined);
    const fed = feedsOf(spec, session, built, block.index, feeds);
    return { step, results: await session.run(fed, outputs), built };
  };
  const sum = (direction: Direction, blocks: readonly PlannedBlock[]) =>
    blocks.reduce((total, block) => total + pool.find(block, direction).flops, 0);
  const reached = plan.filter(({ isReached }) => isReached);
  return {
    forwardFlops: sum("forward", plan),
    backwardFlops: purpose === "training" ? sum("backward", reached) : 0,
    masks: plan.flatMap((block) => {
      const { session, built } = pool.find(block, "forward");
      const masks = session.graph.inputs.filter(({ name }) => isDropoutMask(name));
      return masks.map((mask) => ({ ...mask, name: renumbered(mask.name, built, block.index) }));
    }),
    close: () => pool.close(),
    forward: async (parameters, feeds, entry) => {
      const states = [entry];
      for (const block of plan) {
        const activations = states.at(-1) as Float32Tensor;
        const all = new Map<string, Tensor>([
          ...feeds,
          ...parameters,
          ["activations", activations],
        ]);
        const { step, results } = await run(block, "forward", all);
        states.push(floatOutput(results, step.activations as string));
      }
      return states;
    },
    backward: async (parameters, feeds, states, gradient) => {
      const gradients = new Map<string, Float32Tensor>();
      let flowing: Float32Tensor | undefined = gradient;
      for (const block of reached.toReversed()) {
        const all = new Map<string, Tensor>([
          ...feeds,
          ...parameters,
          ["activations", states[block.index - range.from] as Float32Tensor],
          ["cut_gradient", flowing as Float32Tensor],
        ]);
        const { step, results, built } = await run(block, "backward", all);
        for (const [name, output] of step.gradients) {
          const own = renumbered(name, built, block.index);
          gradients.set(own, floatOutput(results, output));
        }
        const next = step.cutGradient;
        flowing = next === undefined ? undefined : floatOutput(results, next);
      }
      return flowing === undefined || !wantsEntry
        ? { gradients }
        : { gradients, entryGradient: flowing };
    },
  };
}

/** FLOPs of a forward pass and of a backward pass over blocks [from, to), from their graphs alone. */
export function chainFlops(
  spec: ModelSpec,
  range: BlockRange,
  { wantsEntry }: { readonly wantsEntry: boolean },
): Readonly<Record<Direction, number>> {
  const flops = { forward: 0, backward: 0 };
  const known = new Map<string, number>();
  for (const block of planOf(spec, range, wantsEntry)) {
    for (const direction of block.isReached ? directions : (["forward"] as const)) {
      const key = variantOf(block, direction);
      const own =
        known.get(key) ?? graphFlops(buildGraph(spec, block, direction, "training").graph);
      known.set(key, own);
      flops[direction] += own;
    }
  }
  return flops;
}

const directions = ["forward", "backward"] as const;
type Direction = (typeof directions)[number];

interface PlannedBlock {
  readonly index: number;
  /** The layers that carry an adapter. */
  readonly adapted: string;
  /** Whether the backward pass comes here, and whether it goes on below. */
  readonly isReached: boolean;
  readonly wantsInput: boolean;
}

function planOf(spec: ModelSpec, { from, to }: BlockRange, wantsEntry: boolean): PlannedBlock[] {
  const adapted = adaptedLayers(spec);
  const indices = Array.from({ length: to - from }, (_, i) => from + i);
  const lowest = wantsEntry ? from : Math.min(...indices.filter((index) => adapted.has(index)));
  return indices.map((index) => ({
    index,
    adapted: adapted.get(index) ?? "",
    isReached: index >= lowest,
    wantsInput: wantsEntry || index > lowest,
  }));
}

/** Blocks of one variant share a graph. */
function variantOf({ adapted, wantsInput }: PlannedBlock, direction: Direction): string {
  return direction === "forward" ? `forward ${adapted}` : `backward ${adapted} ${wantsInput}`;
}

function buildGraph(
  spec: ModelSpec,
  { index, wantsInput }: PlannedBlock,
  direction: Direction,
  purpose: Purpose,
): StepGraph {
  return direction === "forward"
    ? blockForwardGraph(spec, index, purpose)
    : blockBackwardGraph(spec, index, { wantsInput });
}

interface Loaded {
  readonly step: StepGraph;
  readonly session: Session;
  readonly flops: number;
  /** The block that the graph was built for; others take its place by name. */
  readonly built: number;
}

/** One session for all blocks of a kind. */
function sessionPool(engine: Engine, spec: ModelSpec, purpose: Purpose) {
  const loaded = new Map<string, Loaded>();
  const load = async (block: PlannedBlock, direction: Direction): Promise<void> => {
    const key = variantOf(block, direction);
    if (loaded.has(key)) return;
    const { index } = block;
    const step = buildGraph(spec, block, direction, purpose);
    const session = await engine.load(step.graph, { keepsMemory: false });
    loaded.set(key, { step, session, flops: graphFlops(step.graph), built: index });
  };
  return {
    loadAll: async (plan: readonly PlannedBlock[]) => {
      for (const block of plan) {
        await load(block, "forward");
        if (block.isReached && purpose === "training") await load(block, "backward");
      }
    },
    find: (block: PlannedBlock, direction: Direction) =>
      loaded.get(variantOf(block, direction)) as Loaded,
    close: async () => {
      for (const { session } of loaded.values()) await session.close();
      loaded.clear();
    },
  };
}

/** What the session's graph asks for: tensors by the used block's names, its weights in their files. */
function feedsOf(
  spec: ModelSpec,
  { graph }: Session,
  built: number,
  used: number,
  available: TensorBundle,
): Feeds {
  const weights = blockWeightFeeds(spec, built, used);
  const feeds = new Map<string, Tensor | FileTensor>();
  for (const { name } of graph.inputs) {
    const feed = weights.get(name) ?? available.get(renumbered(name, built, used));
    if (feed) feeds.set(name, feed);
  }
  return feeds;
}
