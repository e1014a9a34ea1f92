// Step graphs loaded into an engine: the functions that training, protocols and evaluation call.
import { graphFlops } from "../graph/flops.ts";
import {
  frontBackwardGraph,
  frontForwardGraph,
  logitsGraph,
  type ModelSpec,
  type Objective,
  stepGraph,
} from "../models/partition.ts";
import type { Engine } from "../session/engine.ts";
import type { Float32Tensor, Parameters, TensorBundle } from "../tensor.ts";
import { loadBlockPredictor, loadBlockStep } from "./block-steps.ts";
import { feedsOf, floatOutput, namedGradients } from "./outputs.ts";

/** Results of a step that reaches the loss. */
export interface StepResult {
  readonly loss: number;
  /** By parameter name. */
  readonly gradients: Parameters;
  /** Gradient at the input of a tail, [tokens, hidden]. */
  readonly cutGradient?: Float32Tensor;
}

/** A loaded graph. */
interface Loaded {
  /** FLOPs of one run. */
  readonly flops: number;
  close(): Promise<void>;
}

/** Loss and gradients of blocks [from, last). */
export interface TrainingStep extends Loaded {
  run(parameters: Parameters, feeds: TensorBundle): Promise<StepResult>;
}

/** Logits of blocks [from, last). */
export interface Predictor extends Loaded {
  run(parameters: Parameters, feeds: TensorBundle): Promise<Float32Tensor>;
}

/** A front: activations forward, gradients backward (the forward pass computed again). */
export interface Front extends Loaded {
  /** FLOPs of a forward pass alone. */
  readonly forwardFlops: number;
  forward(parameters: Parameters, feeds: TensorBundle): Promise<Float32Tensor>;
  backward(
    parameters: Parameters,
    feeds: TensorBundle,
    cutGradient: Float32Tensor,
  ): Promise<Parameters>;
}

/** Loads the step of a whole model, or of the tail behind `from` blocks, as the spec wants it executed. */
export async function loadStep(
  engine: Engine,
  spec: ModelSpec,
  options: { readonly from?: number; readonly objective?: Objective } = {},
): Promise<TrainingStep> {
  if (spec.execution === "blocks") return await loadBlockStep(engine, spec, options);
  const step = stepGraph(spec, options);
  const session = await engine.load(step.graph);
  const wanted = [step.loss, step.cutGradient, ...step.gradients.values()].filter(
    (name) => name !== undefined,
  );
  return {
    flops: graphFlops(step.graph),
    close: () => session.close(),
    run: async (parameters, feeds) => {
      const results = await session.run(feedsOf(session, parameters, feeds), wanted);
      const loss = Number(floatOutput(results, step.loss as string).data[0]);
      const gradients = namedGradients(step, results);
      const cut = step.cutGradient;
      return cut === undefined
        ? { loss, gradients }
        : { loss, gradients, cutGradient: floatOutput(results, cut) };
    },
  };
}

/** Loads the forward pass to the logits, as the spec wants it executed. */
export async function loadPredictor(engine: Engine, spec: ModelSpec, from = 0): Promise<Predictor> {
  if (spec.execution === "blocks") return await loadBlockPredictor(engine, spec, from);
  const { graph, logits } = logitsGraph(spec, from);
  const session = await engine.load(graph);
  return {
    flops: graphFlops(graph),
    close: () => session.close(),
    run: async (parameters, feeds) =>
      floatOutput(await session.run(feedsOf(session, parameters, feeds)), logits as string),
  };
}

/** Loads both passes of a front of `cutLayer` blocks. */
export async function loadFront(engine: Engine, spec: ModelSpec, cutLayer: number): Promise<Front> {
  const forward = frontForwardGraph(spec, cutLayer);
  const backward = frontBackwardGraph(spec, cutLayer);
  const forwardSession = await engine.load(forward.graph);
  const backwardSession = await engine.load(backward.graph);
  const wanted = [...backward.gradients.values()];
  return {
    flops: graphFlops(forward.graph) + graphFlops(backward.graph),
    forwardFlops: graphFlops(forward.graph),
    close: async () => {
      await forwardSession.close();
      await backwardSession.close();
    },
    forward: async (parameters, feeds) => {
      const results = await forwardSession.run(feedsOf(forwardSession, parameters, feeds));
      return floatOutput(results, forward.activations as string);
    },
    backward: async (parameters, feeds, cutGradient) => {
      const all = feedsOf(
        backwardSession,
        parameters,
        new Map([...feeds, ["cut_gradient", cutGradient]]),
      );
      return namedGradients(backward, await backwardSession.run(all, wanted));
    },
  };
}
