// Step graphs loaded into an engine: the functions that training, protocols and evaluation call.
import { graphFlops } from "../graph/flops.ts";
import {
  frontBackwardGraph,
  frontForwardGraph,
  logitsGraph,
  type ModelSpec,
  type StepGraph,
  type StepOptions,
  stepGraph,
} from "../models/partition.ts";
import type { Engine, Session } from "../session/engine.ts";
import type { Float32Tensor, Parameters, Tensor, TensorBundle } from "../tensor.ts";

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

/** Loads the step of a whole model, or of the tail behind `from` blocks. */
export async function loadStep(
  engine: Engine,
  spec: ModelSpec,
  options: Omit<StepOptions, "wantsGradients"> = {},
): Promise<TrainingStep> {
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
      const loss = Number(float(results, step.loss as string).data[0]);
      const gradients = namedGradients(step, results);
      const cut = step.cutGradient;
      return cut === undefined
        ? { loss, gradients }
        : { loss, gradients, cutGradient: float(results, cut) };
    },
  };
}

/** Loads the forward pass to the logits. */
export async function loadPredictor(engine: Engine, spec: ModelSpec, from = 0): Promise<Predictor> {
  const { graph, logits } = logitsGraph(spec, from);
  const session = await engine.load(graph);
  return {
    flops: graphFlops(graph),
    close: () => session.close(),
    run: async (parameters, feeds) =>
      float(await session.run(feedsOf(session, parameters, feeds)), logits as string),
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
      return float(results, forward.activations as string);
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

/** Exactly the inputs a session declares, from what the caller has. */
function feedsOf(session: Session, parameters: Parameters, feeds: TensorBundle): TensorBundle {
  const chosen = new Map<string, Tensor>();
  for (const { name } of session.graph.inputs) {
    const tensor = parameters.get(name) ?? feeds.get(name);
    if (tensor) chosen.set(name, tensor);
  }
  return chosen;
}

function namedGradients(step: StepGraph, results: TensorBundle): Parameters {
  return new Map([...step.gradients].map(([name, output]) => [name, float(results, output)]));
}

/** Engines of float64 results (the reference) are narrowed here, so that callers see one type. */
function float(results: TensorBundle, name: string): Float32Tensor {
  const tensor = results.get(name) as Tensor;
  if (tensor.dtype === "float32") return tensor;
  return { dtype: "float32", shape: tensor.shape, data: Float32Array.from(tensor.data, Number) };
}
