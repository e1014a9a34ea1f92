// The steps of a model that is computed block by block: embedding, chain of blocks, head. The same numbers as the
// whole graph's, in less memory and more time.
import { graphFlops } from "../graph/flops.ts";
import {
  frontForwardGraph,
  logitsGraph,
  type ModelSpec,
  type Objective,
  type StepGraph,
  stepGraph,
} from "../models/partition.ts";
import type { Engine, Session } from "../session/engine.ts";
import type { Float32Tensor, Parameters, TensorBundle } from "../tensor.ts";
import { type BlockChain, loadBlockChain } from "./block-chain.ts";
import { feedsOf, floatOutput, namedGradients } from "./outputs.ts";
import type { Predictor, StepResult, TrainingStep } from "./steps.ts";

/** Like `loadStep` of a whole graph; a tail (`from` > 0) takes `activations` and gives the gradient at the cut. */
export async function loadBlockStep(
  engine: Engine,
  spec: ModelSpec,
  { from = 0, objective }: { readonly from?: number; readonly objective?: Objective } = {},
): Promise<TrainingStep> {
  const { layers } = spec.model.config;
  const entry = await loadEntry(engine, spec, from);
  const wantsEntry = from > 0;
  const chain = await loadBlockChain(engine, spec, { from, to: layers }, { wantsEntry });
  const head = stepGraph(
    spec,
    objective === undefined ? { from: layers } : { from: layers, objective },
  );
  const headSession = await engine.load(head.graph);
  return {
    flops: entry.flops + chain.forwardFlops + chain.backwardFlops + graphFlops(head.graph),
    close: () => closeAll(entry, chain, headSession),
    run: async (parameters, feeds) => {
      const states = await chain.forward(parameters, feeds, await entry.run(feeds));
      const last = await runHead(headSession, head, parameters, withActivations(feeds, states));
      const behind = last.cutGradient as Float32Tensor;
      const below = await chain.backward(parameters, feeds, states, behind);
      const gradients = new Map([...below.gradients, ...last.gradients]);
      const { entryGradient } = below;
      return entryGradient === undefined
        ? { loss: last.loss, gradients }
        : { loss: last.loss, gradients, cutGradient: entryGradient };
    },
  };
}

/** Like `loadPredictor` of a whole graph. */
export async function loadBlockPredictor(
  engine: Engine,
  spec: ModelSpec,
  from = 0,
): Promise<Predictor> {
  const { layers } = spec.model.config;
  const entry = await loadEntry(engine, spec, from);
  const chain = await loadBlockChain(engine, spec, { from, to: layers }, { wantsEntry: false });
  const { graph, logits } = logitsGraph(spec, layers);
  const head = await engine.load(graph);
  return {
    flops: entry.flops + chain.forwardFlops + graphFlops(graph),
    close: () => closeAll(entry, chain, head),
    run: async (parameters, feeds) => {
      const states = await chain.forward(parameters, feeds, await entry.run(feeds));
      const all = feedsOf(head, parameters, withActivations(feeds, states));
      return floatOutput(await head.run(all), logits as string);
    },
  };
}

/** What makes the first block's input. */
interface Entry {
  readonly flops: number;
  run(feeds: TensorBundle): Promise<Float32Tensor>;
  close(): Promise<void>;
}

async function loadEntry(engine: Engine, spec: ModelSpec, from: number): Promise<Entry> {
  if (from > 0) {
    const run = async (feeds: TensorBundle) => feeds.get("activations") as Float32Tensor;
    return { flops: 0, run, close: async () => undefined };
  }
  const { graph, activations } = frontForwardGraph(spec, 0);
  const session = await engine.load(graph);
  return {
    flops: graphFlops(graph),
    close: () => session.close(),
    run: async (feeds) =>
      floatOutput(await session.run(feedsOf(session, new Map(), feeds)), activations as string),
  };
}

async function runHead(
  session: Session,
  step: StepGraph,
  parameters: Parameters,
  feeds: TensorBundle,
): Promise<StepResult> {
  const wanted = [step.loss, step.cutGradient, ...step.gradients.values()];
  const names = wanted.filter((name) => name !== undefined);
  const results = await session.run(feedsOf(session, parameters, feeds), names);
  return {
    loss: Number(floatOutput(results, step.loss as string).data[0]),
    gradients: namedGradients(step, results),
    cutGradient: floatOutput(results, step.cutGradient as string),
  };
}

function withActivations(feeds: TensorBundle, states: readonly Float32Tensor[]): TensorBundle {
  return new Map([...feeds, ["activations", states.at(-1) as Float32Tensor]]);
}

async function closeAll(entry: Entry, chain: BlockChain, head: Session): Promise<void> {
  await entry.close();
  await chain.close();
  await head.close();
}
