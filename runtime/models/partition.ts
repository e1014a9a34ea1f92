// The graphs of a training step, whole or cut: which blocks, which inputs, which outputs. Block
// boundaries are graph outputs in every step graph, so that ONNX Runtime fuses nothing across a
// boundary and a cut model computes the same bits as a whole one.
import { gradients, lossSeed, type Seed } from "../autodiff/backward.ts";
import { type GraphBuilder, graphBuilder } from "../graph/builder.ts";
import type { Graph, Value } from "../graph/ir.ts";
import type { BaseModel } from "./base-model.ts";
import { attentionBias, type BlockContext, block, embed } from "./gpt2.ts";
import * as heads from "./heads.ts";
import {
  type HeadSettings,
  headParameter,
  type LoraSettings,
  loraName,
  parameterShapes,
  targetedModules,
} from "./lora.ts";
import { frozenWeight } from "./weights.ts";

/** What every graph of one training run shares. */
export interface ModelSpec {
  readonly model: BaseModel;
  readonly lora: LoraSettings;
  readonly head: HeadSettings;
  readonly batch: number;
  readonly sequence: number;
}

/** Blocks [from, to); the embedding belongs to block 0, the final norm and head to the last. */
export interface BlockRange {
  readonly from: number;
  readonly to: number;
}

/** What is minimised: the labels' cross-entropy, or the distance to a teacher at a temperature. */
export type Objective =
  | { readonly kind: "labels" }
  | { readonly kind: "teacher"; readonly temperature: number };

/** Which step of a model. */
export interface StepOptions {
  /** First block; what lies before it is another's. Default 0. */
  readonly from?: number;
  /** Default: the labels. */
  readonly objective?: Objective;
  readonly wantsGradients?: boolean;
  /** Whether the gradient at the input of the first block comes out; default behind a cut. */
  readonly wantsCutGradient?: boolean;
}

/** A graph and the names under which its results come out. */
export interface StepGraph {
  readonly graph: Graph;
  readonly blocks: BlockRange;
  /** Scalar. */
  readonly loss?: string;
  /** [batch, classes] or [tokens, vocab]. */
  readonly logits?: string;
  /** [tokens, hidden] behind the last block of a front. */
  readonly activations?: string;
  /** [tokens, hidden]: gradient at the input of a tail. */
  readonly cutGradient?: string;
  /** By parameter name. */
  readonly gradients: ReadonlyMap<string, string>;
}

/** Logits of blocks [from, last): of texts when `from` is 0, of activations otherwise. */
export function logitsGraph(spec: ModelSpec, from = 0): StepGraph {
  const parts = assemble(spec, { from, to: spec.model.config.layers });
  const logits = predict(parts).logits;
  parts.b.output(logits);
  return {
    graph: parts.b.build("logits"),
    blocks: parts.blocks,
    logits: logits.name,
    gradients: new Map(),
  };
}

/** Activations at the cut layer: the front's forward pass. */
export function frontForwardGraph(spec: ModelSpec, cutLayer: number): StepGraph {
  const { b, blocks, hidden } = assemble(spec, { from: 0, to: cutLayer });
  b.output(hidden);
  return {
    graph: b.build("front-forward"),
    blocks,
    activations: hidden.name,
    gradients: new Map(),
  };
}

/** Gradients of the front's parameters from the gradient at the cut; computes the forward pass again. */
export function frontBackwardGraph(spec: ModelSpec, cutLayer: number): StepGraph {
  const parts = assemble(spec, { from: 0, to: cutLayer });
  const { b, blocks, hidden } = parts;
  const gradient = b.input("cut_gradient", "float32", hidden.shape);
  declareBoundaries(parts);
  const named = parameterGradients(parts, { value: hidden, gradient });
  return { graph: b.build("front-backward"), blocks, gradients: named };
}

/**
 * One step of blocks [from, last): loss, logits, parameter gradients and, behind a cut, the gradient to send
 * back, unless `wantsCutGradient` is false. With `wantsGradients` false only loss and logits.
 */
export function stepGraph(
  spec: ModelSpec,
  {
    from = 0,
    objective = { kind: "labels" },
    wantsGradients = true,
    wantsCutGradient = from > 0,
  }: StepOptions = {},
): StepGraph {
  const parts = assemble(spec, { from, to: spec.model.config.layers });
  const { b, blocks } = parts;
  const prediction = predict(parts);
  const loss = lossOf(parts, prediction, objective);
  declareBoundaries(parts);
  b.output(loss);
  b.output(prediction.logits);
  const names = { loss: loss.name, logits: prediction.logits.name };
  if (!wantsGradients) return { graph: b.build("loss"), blocks, ...names, gradients: new Map() };
  if (!wantsCutGradient) {
    const named = parameterGradients(parts, lossSeed(b, loss));
    return { graph: b.build("step"), blocks, ...names, gradients: named };
  }
  const wanted = [...parts.parameters.values(), parts.entry];
  const found = gradients(b, [lossSeed(b, loss)], wanted);
  const cutGradient = found.at(-1) as Value;
  for (const value of found) b.output(value);
  const named = new Map(
    [...parts.parameters.keys()].map((name, i) => [name, (found[i] as Value).name]),
  );
  return {
    graph: b.build("tail-step"),
    blocks,
    ...names,
    cutGradient: cutGradient.name,
    gradients: named,
  };
}

/** A model part under construction. */
interface Parts {
  readonly b: GraphBuilder;
  readonly spec: ModelSpec;
  readonly context: BlockContext;
  readonly blocks: BlockRange;
  /** Trainable parameters of these blocks, in order. */
  readonly parameters: ReadonlyMap<string, Value>;
  /** What enters the first of the blocks, [tokens, hidden]. */
  readonly entry: Value;
  /** What leaves the last of the blocks, [tokens, hidden]. */
  readonly hidden: Value;
  readonly boundaries: readonly Value[];
}

function assemble(spec: ModelSpec, blocks: BlockRange): Parts {
  const { model, lora, head, batch, sequence } = spec;
  const b = graphBuilder();
  const parameters = new Map<string, Value>();
  for (const [name, shape] of parameterShapes(model.config, lora, head, blocks)) {
    parameters.set(name, b.input(name, "float32", shape));
  }
  const context: BlockContext = {
    b,
    config: model.config,
    batch,
    sequence,
    weight: (name) => frozenWeight(b, model, name),
    adapt: adapterOf(b, spec, parameters),
  };
  const tokens = batch * sequence;
  const entry =
    blocks.from === 0
      ? embed(context, b.input("input_ids", "int64", [batch, sequence]))
      : b.input("activations", "float32", [tokens, model.config.hiddenSize]);
  const bias = attentionBias(context, b.input("attention_mask", "int64", [batch, sequence]));
  const boundaries: Value[] = [];
  let hidden = entry;
  for (let index = blocks.from; index < blocks.to; index++) {
    hidden = block(context, index, hidden, bias);
    boundaries.push(hidden);
  }
  return { b, spec, context, blocks, parameters, entry, hidden, boundaries };
}

/** y + alpha / rank * (x A^T) B^T for targeted layers; the sum happens inside the second product. */
function adapterOf(
  b: GraphBuilder,
  { model, lora }: ModelSpec,
  parameters: ReadonlyMap<string, Value>,
): BlockContext["adapt"] {
  const modules = new Map(
    targetedModules(model.config, lora).map((module) => [module.path, module]),
  );
  return (path, x, y) => {
    const module = modules.get(path);
    const a = module && parameters.get(loraName(module, "A"));
    const up = module && parameters.get(loraName(module, "B"));
    if (!a || !up) return y;
    const low = b.op("Gemm", [x, a], { alpha: 1, transA: false, transB: true }); // [tokens, rank]
    return b.op("Gemm", [low, up, y], {
      alpha: lora.alpha / lora.rank,
      transA: false,
      transB: true,
    });
  };
}

interface Prediction {
  readonly logits: Value;
  /** Final states, lm only. */
  readonly states?: Value;
}

function predict({ b, spec, context, hidden, parameters }: Parts): Prediction {
  if (spec.head.kind === "lm") {
    const states = heads.finalStates(context, hidden);
    return { states, logits: heads.languageLogits(context, states) };
  }
  const pooling = b.input("pooling", "float32", [spec.batch, spec.sequence]);
  const score = parameters.get(headParameter) as Value;
  return { logits: heads.classificationLogits(context, hidden, pooling, score) };
}

function lossOf(
  { b, context }: Parts,
  { logits, states }: Prediction,
  objective: Objective,
): Value {
  const rows = logits.shape[0] as number;
  const weights = b.input("weights", "float32", [rows]);
  if (objective.kind === "teacher") {
    const teacher = b.input("teacher", "float32", logits.shape);
    return heads.teacherLoss(context, {
      logits,
      teacher,
      weights,
      temperature: objective.temperature,
    });
  }
  const labels = b.input("labels", "int64", [rows]);
  return states
    ? heads.languageLoss(context, { states, logits, labels, weights })
    : heads.labelLoss(context, logits, labels, weights);
}

function declareBoundaries({ b, boundaries }: Parts): void {
  for (const boundary of boundaries) b.output(boundary);
}

function parameterGradients({ b, parameters }: Parts, seed: Seed): Map<string, string> {
  const found = gradients(b, [seed], [...parameters.values()]);
  for (const value of found) b.output(value);
  return new Map([...parameters.keys()].map((name, i) => [name, (found[i] as Value).name]));
}
