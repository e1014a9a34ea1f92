// The parts of a cut model that end at a cut: forward to it, and back from the gradient that arrives there.
import { graphFlops } from "../graph/flops.ts";
import {
  type BlockRange,
  frontBackwardGraph,
  frontForwardGraph,
  type ModelSpec,
  middleBackwardGraph,
  middleForwardGraph,
  type StepGraph,
} from "../models/partition.ts";
import type { Engine, Session } from "../session/engine.ts";
import type { Float32Tensor, Parameters, TensorBundle } from "../tensor.ts";
import { feedsOf, floatOutput, namedGradients } from "./outputs.ts";
import { type Dropping, type Loaded, maskerOf } from "./steps.ts";

/** The forward pass of a part that ends at a cut. */
interface ForwardPass extends Loaded, Dropping {
  /** FLOPs of a forward pass alone; `flops` are those of both passes. */
  readonly forwardFlops: number;
  /** Activations of a training step, whose `backward` takes the same feeds. */
  forward(parameters: Parameters, feeds: TensorBundle): Promise<Float32Tensor>;
  /** Activations without dropout. */
  evaluate(parameters: Parameters, feeds: TensorBundle): Promise<Float32Tensor>;
}

/** A front: activations forward, gradients backward (the forward pass computed again). */
export interface Front extends ForwardPass {
  backward(
    parameters: Parameters,
    feeds: TensorBundle,
    cutGradient: Float32Tensor,
  ): Promise<Parameters>;
}

/** A middle, which takes `activations` among its feeds and gives the gradient there as well. */
export interface Middle extends ForwardPass {
  backward(
    parameters: Parameters,
    feeds: TensorBundle,
    cutGradient: Float32Tensor,
  ): Promise<MiddleGradients>;
}

/** What a backward pass through a middle gives. */
export interface MiddleGradients {
  /** By parameter name. */
  readonly gradients: Parameters;
  /** At the middle's input, [tokens, hidden]. */
  readonly cutGradient: Float32Tensor;
}

/** Loads both passes of a front of `cutLayer` blocks, with dropout the forward pass of evaluation as well. */
export async function loadFront(engine: Engine, spec: ModelSpec, cutLayer: number): Promise<Front> {
  const { backward, ...passes } = await loadPasses(engine, spec, {
    forward: frontForwardGraph(spec, cutLayer),
    backward: frontBackwardGraph(spec, cutLayer),
    evaluation: frontForwardGraph(spec, cutLayer, "evaluation"),
  });
  return {
    ...passes,
    backward: async (parameters, feeds, gradient) =>
      (await backward(parameters, feeds, gradient)).gradients,
  };
}

/** Loads both passes of blocks [from, to) between two cuts, with dropout the forward pass of evaluation as well. */
export async function loadMiddle(
  engine: Engine,
  spec: ModelSpec,
  blocks: BlockRange,
): Promise<Middle> {
  const { backward, ...passes } = await loadPasses(engine, spec, {
    forward: middleForwardGraph(spec, blocks),
    backward: middleBackwardGraph(spec, blocks),
    evaluation: middleForwardGraph(spec, blocks, "evaluation"),
  });
  return {
    ...passes,
    backward: async (parameters, feeds, gradient) => {
      const { gradients, cutGradient } = await backward(parameters, feeds, gradient);
      return { gradients, cutGradient: cutGradient as Float32Tensor };
    },
  };
}

/** The graphs of a part. */
interface PassGraphs {
  readonly forward: StepGraph;
  readonly backward: StepGraph;
  readonly evaluation: StepGraph;
}

/** What a backward pass gives, the gradient at its input where the graph has it. */
type Gradients = Pick<MiddleGradients, "gradients"> & Partial<MiddleGradients>;

async function loadPasses(
  engine: Engine,
  spec: ModelSpec,
  { forward, backward, evaluation }: PassGraphs,
): Promise<
  ForwardPass & {
    backward(
      parameters: Parameters,
      feeds: TensorBundle,
      cutGradient: Float32Tensor,
    ): Promise<Gradients>;
  }
> {
  const forwardSession = await engine.load(forward.graph);
  const backwardSession = await engine.load(backward.graph);
  const drops = (spec.lora.dropout ?? 0) > 0;
  const evaluationSession = drops ? await engine.load(evaluation.graph) : forwardSession;
  const { cutGradient: entry } = backward;
  const wanted = [...backward.gradients.values(), ...(entry === undefined ? [] : [entry])];
  return {
    flops: graphFlops(forward.graph) + graphFlops(backward.graph),
    forwardFlops: graphFlops(forward.graph),
    close: async () => {
      await forwardSession.close();
      await backwardSession.close();
      await evaluationSession.close();
    },
    withMasks: maskerOf(spec, backwardSession),
    forward: activationsOf(forwardSession, forward),
    evaluate: activationsOf(evaluationSession, evaluation),
    backward: async (parameters, feeds, cutGradient) => {
      const all = new Map([...feeds, ["cut_gradient", cutGradient]]);
      const given = feedsOf(backwardSession, parameters, all);
      const results = await backwardSession.run(given, wanted);
      const gradients = namedGradients(backward, results);
      return entry === undefined
        ? { gradients }
        : { gradients, cutGradient: floatOutput(results, entry) };
    },
  };
}

function activationsOf(session: Session, { activations }: StepGraph) {
  return async (parameters: Parameters, feeds: TensorBundle): Promise<Float32Tensor> =>
    floatOutput(await session.run(feedsOf(session, parameters, feeds)), activations as string);
}
