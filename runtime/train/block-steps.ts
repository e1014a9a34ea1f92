// A model that is computed block by block: what makes the first block's input, the chain of blocks, the head. The same
// numbers as the whole graph's, in less memory and more time.
import { graphFlops } from "../graph/flops.ts";
import {
  frontForwardGraph,
  type LogitsOptions,
  logitsGraph,
  type ModelSpec,
  type Purpose,
  type StepGraph,
  type StepOptions,
  stepGraph,
} from "../models/partition.ts";
import type { Engine } from "../session/engine.ts";
import type { Float32Tensor, Parameters, TensorBundle } from "../tensor.ts";
import { type BlockChain, loadBlockChain } from "./block-chain.ts";
import { withDropoutMasks } from "./dropout.ts";
import { feedsOf, floatOutput, namedGradients } from "./outputs.ts";
import type { LossFunction, Predictor, TrainingStep } from "./steps.ts";

/** Like `loadStep` of a whole graph; a tail (`from` > 0) takes `activations` and gives the gradient at the cut. */
export async function loadBlockStep(
  engine: Engine,
  spec: ModelSpec,
  { from = 0, objective, wantsCutGradient = from > 0 }: Omit<StepOptions, "wantsGradients"> = {},
): Promise<TrainingStep> {
  const step = stepGraph(spec, { from: lastBlock(spec), ...(objective ? { objective } : {}) });
  const body = await loadBody(engine, spec, { from, purpose: "training", wantsCutGradient });
  const head = await loadHead(engine, step);
  const { chain } = body;
  const flops = body.forwardFlops + chain.backwardFlops + head.flops;
  const wanted = [step.loss, step.cutGradient, ...step.gradients.values()];
  const names = wanted.filter((name) => name !== undefined);
  return {
    flops,
    close: () => closeAll(body, head),
    withMasks: (feeds, key) =>
      withDropoutMasks([...chain.masks, ...step.graph.inputs], spec.lora.dropout ?? 0, {
        feeds,
        key,
      }),
    run: async (parameters, feeds) => {
      const states = await body.forward(parameters, feeds);
      const results = await head.run(parameters, withActivations(feeds, states), names);
      // Absent in a model of one block, which is all in the head.
      const behind = step.cutGradient && floatOutput(results, step.cutGradient);
      const below = behind
        ? await chain.backward(parameters, feeds, states, behind)
        : { gradients: new Map() };
      return {
        loss: Number(floatOutput(results, step.loss as string).data[0]),
        gradients: new Map([...below.gradients, ...namedGradients(step, results)]),
        flops,
        ...("entryGradient" in below ? { cutGradient: below.entryGradient } : {}),
      };
    },
  };
}

/** Like `loadPredictor` of a whole graph. */
export async function loadBlockPredictor(
  engine: Engine,
  spec: ModelSpec,
  { from = 0, pooled = false }: LogitsOptions = {},
): Promise<Predictor> {
  const head = logitsGraph(spec, { from: lastBlock(spec), pooled });
  return await loadForward(engine, spec, from, head);
}

/** Like `loadLoss` of a whole graph. */
export async function loadBlockLoss(engine: Engine, spec: ModelSpec): Promise<LossFunction> {
  const graph = stepGraph(spec, { from: lastBlock(spec), wantsGradients: false });
  const forward = await loadForward(engine, spec, 0, graph);
  return {
    ...forward,
    run: async (parameters, feeds) => Number((await forward.run(parameters, feeds)).data[0]),
  };
}

/** The first result of a head, without dropout. */
async function loadForward(
  engine: Engine,
  spec: ModelSpec,
  from: number,
  step: StepGraph,
): Promise<Predictor> {
  const result = (step.loss ?? step.logits) as string;
  const purpose = "evaluation";
  const body = await loadBody(engine, spec, { from, purpose, wantsCutGradient: false });
  const head = await loadHead(engine, step);
  return {
    flops: body.forwardFlops + head.flops,
    close: () => closeAll(body, head),
    run: async (parameters, feeds) => {
      const states = await body.forward(parameters, feeds);
      const results = await head.run(parameters, withActivations(feeds, states), [result]);
      return floatOutput(results, result);
    },
  };
}

/** The head has the last block with it, which computes less for a pooled token than the others do. */
function lastBlock({ model }: ModelSpec): number {
  return model.config.layers - 1;
}

/** Everything before the last block. */
interface Body {
  readonly chain: BlockChain;
  readonly forwardFlops: number;
  forward(parameters: Parameters, feeds: TensorBundle): Promise<readonly Float32Tensor[]>;
  close(): Promise<void>;
}

async function loadBody(
  engine: Engine,
  spec: ModelSpec,
  {
    from,
    purpose,
    wantsCutGradient: wantsEntry,
  }: { readonly from: number; readonly purpose: Purpose; readonly wantsCutGradient: boolean },
): Promise<Body> {
  const range = { from, to: lastBlock(spec) };
  const chain = await loadBlockChain(engine, spec, range, { wantsEntry, purpose });
  if (from > 0) {
    const forward: Body["forward"] = (parameters, feeds) =>
      chain.forward(parameters, feeds, feeds.get("activations") as Float32Tensor);
    return { chain, forwardFlops: chain.forwardFlops, forward, close: () => chain.close() };
  }
  const embedding = frontForwardGraph(spec, 0);
  const session = await engine.load(embedding.graph);
  return {
    chain,
    forwardFlops: graphFlops(embedding.graph) + chain.forwardFlops,
    forward: async (parameters, feeds) => {
      const results = await session.run(feedsOf(session, parameters, feeds));
      const entry = floatOutput(results, embedding.activations as string);
      return await chain.forward(parameters, feeds, entry);
    },
    close: async () => {
      await session.close();
      await chain.close();
    },
  };
}

interface Head {
  readonly flops: number;
  run(
    parameters: Parameters,
    feeds: TensorBundle,
    outputs: readonly string[],
  ): Promise<TensorBundle>;
  close(): Promise<void>;
}

async function loadHead(engine: Engine, { graph }: StepGraph): Promise<Head> {
  const session = await engine.load(graph, { keepsMemory: false });
  return {
    flops: graphFlops(graph),
    run: (parameters, feeds, outputs) => session.run(feedsOf(session, parameters, feeds), outputs),
    close: () => session.close(),
  };
}

function withActivations(feeds: TensorBundle, states: readonly Float32Tensor[]): TensorBundle {
  return new Map([...feeds, ["activations", states.at(-1) as Float32Tensor]]);
}

async function closeAll(body: Body, head: Head): Promise<void> {
  await body.close();
  await head.close();
}
