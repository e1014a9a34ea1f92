// Step graphs loaded into an engine: the functions that training, protocols and evaluation call.
import { graphFlops } from "../graph/flops.ts";
import {
  type LogitsOptions,
  logitsGraph,
  type ModelSpec,
  type StepOptions,
  stepGraph,
} from "../models/partition.ts";
import type { Engine, Session } from "../session/engine.ts";
import type { Float32Tensor, Parameters, TensorBundle } from "../tensor.ts";
import { loadBlockLoss, loadBlockPredictor, loadBlockStep } from "./block-steps.ts";
import { type MaskKey, withDropoutMasks } from "./dropout.ts";
import { feedsOf, floatOutput, namedGradients } from "./outputs.ts";

/** Results of a step that reaches the loss. */
export interface StepResult {
  readonly loss: number;
  /** By parameter name. */
  readonly gradients: Parameters;
  /** Gradient at the input of a tail, [tokens, hidden]. */
  readonly cutGradient?: Float32Tensor;
  /** FLOPs of the run. */
  readonly flops: number;
}

/** A loaded graph. */
export interface Loaded {
  /** FLOPs of one run. */
  readonly flops: number;
  close(): Promise<void>;
}

/** A loaded graph that may drop inputs of adapters. */
export interface Dropping {
  /** The feeds with the masks of the step that `key` names, which runs with dropout need; else the feeds themselves. */
  withMasks(feeds: TensorBundle, key: MaskKey): TensorBundle;
}

/** What the training loop runs: loss and gradients of a batch. */
export interface StepRunner extends Dropping {
  run(parameters: Parameters, feeds: TensorBundle): Promise<StepResult>;
}

/** Loss and gradients of blocks [from, last). */
export interface TrainingStep extends Loaded, StepRunner {}

/** Logits of blocks [from, last). */
export interface Predictor extends Loaded {
  run(parameters: Parameters, feeds: TensorBundle): Promise<Float32Tensor>;
}

/** Loss of a whole model or of a tail, without dropout. */
export interface LossFunction extends Loaded {
  run(parameters: Parameters, feeds: TensorBundle): Promise<number>;
}

/** Loads the step of a whole model, or of the tail behind `from` blocks, as the spec wants it executed. */
export async function loadStep(
  engine: Engine,
  spec: ModelSpec,
  options: Omit<StepOptions, "wantsGradients"> = {},
): Promise<TrainingStep> {
  if (spec.execution === "blocks") return await loadBlockStep(engine, spec, options);
  const step = stepGraph(spec, options);
  const session = await engine.load(step.graph);
  const flops = graphFlops(step.graph);
  const wanted = [step.loss, step.cutGradient, ...step.gradients.values()].filter(
    (name) => name !== undefined,
  );
  return {
    flops,
    close: () => session.close(),
    withMasks: maskerOf(spec, session),
    run: async (parameters, feeds) => {
      const results = await session.run(feedsOf(session, parameters, feeds), wanted);
      const loss = Number(floatOutput(results, step.loss as string).data[0]);
      const gradients = namedGradients(step, results);
      const cut = step.cutGradient;
      return cut === undefined
        ? { loss, gradients, flops }
        : { loss, gradients, flops, cutGradient: floatOutput(results, cut) };
    },
  };
}

/** Loads the forward pass to the logits, as the spec wants it executed. */
export async function loadPredictor(
  engine: Engine,
  spec: ModelSpec,
  options: LogitsOptions = {},
): Promise<Predictor> {
  if (spec.execution === "blocks") return await loadBlockPredictor(engine, spec, options);
  const { graph, logits } = logitsGraph(spec, options);
  const session = await engine.load(graph);
  return {
    flops: graphFlops(graph),
    close: () => session.close(),
    run: async (parameters, feeds) =>
      floatOutput(await session.run(feedsOf(session, parameters, feeds)), logits as string),
  };
}

/** Loads the forward pass to the labels' loss, of a whole model as the spec wants it executed or of a tail behind `from` blocks. */
export async function loadLoss(
  engine: Engine,
  spec: ModelSpec,
  { from = 0 }: Pick<StepOptions, "from"> = {},
): Promise<LossFunction> {
  if (spec.execution === "blocks" && from === 0) return await loadBlockLoss(engine, spec);
  const { graph, loss = "" } = stepGraph(spec, { from, wantsGradients: false });
  const session = await engine.load(graph);
  return {
    flops: graphFlops(graph),
    close: () => session.close(),
    run: async (parameters, feeds) => {
      const results = await session.run(feedsOf(session, parameters, feeds), [loss]);
      return Number(floatOutput(results, loss).data[0]);
    },
  };
}

/** How a session's dropout masks are drawn. */
export function maskerOf({ lora }: ModelSpec, { graph }: Session): Dropping["withMasks"] {
  return (feeds, key) => withDropoutMasks(graph.inputs, lora.dropout ?? 0, { feeds, key });
}
