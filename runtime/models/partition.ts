// The graphs of a training step, whole or cut: which blocks, which inputs, which outputs. Block
// boundaries are graph outputs in every step graph, so that ONNX Runtime fuses nothing across a
// boundary and a cut model computes the same bits as a whole one.
import { gradients, lossSeed, type Seed } from "../autodiff/backward.ts";
import { type GraphBuilder, graphBuilder } from "../graph/builder.ts";
import type { Graph, Value } from "../graph/ir.ts";
import type { BaseModel } from "./base-model.ts";
import { familyOf } from "./families.ts";
import type { BlockContext } from "./family.ts";
import * as heads from "./heads.ts";
import {
  dropoutMaskName,
  type HeadSettings,
  headParameter,
  isTrainable,
  type LoraSettings,
  loraName,
  loraScale,
  parameterShapes,
  targetedModules,
} from "./lora.ts";
import { fedWeights, mappedRows, mappedWeights } from "./weights.ts";

/** What every graph of one training run shares. */
export interface ModelSpec {
  readonly model: BaseModel;
  readonly lora: LoraSettings;
  readonly head: HeadSettings;
  readonly batch: number;
  readonly sequence: number;
  /** One graph for the whole model, or block by block with one block's weights in memory; default whole. */
  readonly execution?: "whole" | "blocks";
}

/** Blocks [from, to); the embedding belongs to block 0, the final norm and head to the last unless `head` is false. */
export interface BlockRange {
  readonly from: number;
  readonly to: number;
  readonly head?: boolean;
}

/** What is minimised: the labels' cross-entropy, or the distance to a teacher at a temperature. */
export type Objective =
  | {
      readonly kind: "labels";
      /** Label smoothing, 0 when left out. */
      readonly smoothing?: number;
    }
  | { readonly kind: "teacher"; readonly temperature: number };

/** What a graph is for: only training drops inputs of adapters, by masks that are fed. */
export type Purpose = "training" | "evaluation";
/** Which step of a model. */
export interface StepOptions {
  /** First block; what lies before it is another's. Default 0. */
  readonly from?: number;
  /** Default: the labels. */
  readonly objective?: Objective;
  readonly wantsGradients?: boolean;
  /** Whether the logits come out beside the loss; a language model then computes them in one piece. Default false. */
  readonly wantsLogits?: boolean;
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
  /** What leaves the last block of a front or a middle: [tokens, hidden], or [batch, hidden] where it pools. */
  readonly activations?: string;
  /** Gradient at the input of a middle or a tail, of that input's shape. */
  readonly cutGradient?: string;
  /** By parameter name. */
  readonly gradients: ReadonlyMap<string, string>;
}

/** Which logits are computed. */
export interface LogitsOptions {
  /** First of the blocks; 0 when left out. */
  readonly from?: number;
  /** Language models: only those of the token that `pooling` chooses in each row, [batch, vocab]. */
  readonly pooled?: boolean;
}

/** Logits of blocks [from, last): of texts when `from` is 0, of activations otherwise. */
export function logitsGraph(
  spec: ModelSpec,
  { from = 0, pooled = false }: LogitsOptions = {},
): StepGraph {
  const pools = pooled || poolsIn(spec);
  const blocks = { from, to: spec.model.config.layers };
  const parts = assemble(spec, blocks, { purpose: "evaluation", pools });
  const { logits } = predict(parts);
  parts.b.output(logits);
  return {
    graph: parts.b.build("logits"),
    blocks: parts.blocks,
    logits: logits.name,
    gradients: new Map(),
  };
}

/** Activations at the cut layer: the front's forward pass. */
export function frontForwardGraph(
  spec: ModelSpec,
  cutLayer: number,
  purpose: Purpose = "training",
): StepGraph {
  const { b, blocks, hidden } = assemble(spec, { from: 0, to: cutLayer }, { purpose });
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
  const parts = assemble(spec, { from: 0, to: cutLayer }, { purpose: "training" });
  const { b, blocks, hidden } = parts;
  const gradient = b.input("cut_gradient", "float32", hidden.shape);
  declareBoundaries(parts);
  const named = parameterGradients(parts, { value: hidden, gradient });
  return { graph: b.build("front-backward"), blocks, gradients: named };
}

/** What blocks [from, to) between two cuts make of `activations`: [tokens, hidden], or [batch, hidden] where the last block pools. */
export function middleForwardGraph(
  spec: ModelSpec,
  { from, to }: BlockRange,
  purpose: Purpose = "training",
): StepGraph {
  const blocks = { from, to, head: false };
  const { b, hidden } = assemble(spec, blocks, { purpose, pools: poolsIn(spec) });
  b.output(hidden);
  return {
    graph: b.build("middle-forward"),
    blocks,
    activations: hidden.name,
    gradients: new Map(),
  };
}

/**
 * Gradients of a middle's parameters and at its input, from the gradient at its output; computes the forward pass
 * again.
 */
export function middleBackwardGraph(spec: ModelSpec, { from, to }: BlockRange): StepGraph {
  const blocks = { from, to, head: false };
  const parts = assemble(spec, blocks, { purpose: "training", pools: poolsIn(spec) });
  const { b, hidden } = parts;
  const gradient = b.input("cut_gradient", "float32", hidden.shape);
  declareBoundaries(parts);
  const found = gradientsWithEntry(parts, { value: hidden, gradient });
  return { graph: b.build("middle-backward"), blocks, ...found };
}

/**
 * One step of blocks [from, last): loss, parameter gradients and, behind a cut, the gradient to send
 * back, unless `wantsCutGradient` is false. With `wantsGradients` false only the loss, without dropout.
 */
export function stepGraph(
  spec: ModelSpec,
  {
    from = 0,
    objective = { kind: "labels" },
    wantsGradients = true,
    wantsLogits = false,
    wantsCutGradient = from > 0,
  }: StepOptions = {},
): StepGraph {
  const purpose = wantsGradients ? "training" : "evaluation";
  const pools = poolsIn(spec);
  const parts = assemble(spec, { from, to: spec.model.config.layers }, { purpose, pools });
  const { b, blocks } = parts;
  const prediction = predict(parts);
  const loss = lossOf(parts, prediction, { objective, wantsLogits });
  declareBoundaries(parts);
  b.output(loss);
  if (wantsLogits) b.output(prediction.logits);
  const names = { loss: loss.name, ...(wantsLogits ? { logits: prediction.logits.name } : {}) };
  if (!wantsGradients) return { graph: b.build("loss"), blocks, ...names, gradients: new Map() };
  if (!wantsCutGradient) {
    const named = parameterGradients(parts, lossSeed(b, loss));
    return { graph: b.build("step"), blocks, ...names, gradients: named };
  }
  const found = gradientsWithEntry(parts, lossSeed(b, loss));
  return { graph: b.build("tail-step"), blocks, ...names, ...found };
}

/** A model part under construction. */
export interface Parts {
  readonly b: GraphBuilder;
  readonly spec: ModelSpec;
  readonly context: BlockContext;
  readonly blocks: BlockRange;
  /** Adapters and head of these blocks, in order. */
  readonly parameters: ReadonlyMap<string, Value>;
  /** What enters the first of the blocks, [tokens, hidden]; the pooled [batch, hidden] of a head without blocks. */
  readonly entry: Value;
  /** What leaves the last of the blocks: [tokens, hidden], or [batch, hidden] where it pools. */
  readonly hidden: Value;
  readonly boundaries: readonly Value[];
}

/** The parameters that a step moves. */
export function trainedOf({ spec, parameters }: Parts): ReadonlyMap<string, Value> {
  return new Map([...parameters].filter(([name]) => isTrainable(spec.lora, name)));
}

/** How a part is built: what for, what enters it (tokens when it starts at block 0), where its weights come from. */
export interface PartOptions {
  readonly purpose: Purpose;
  readonly entry?: "tokens" | "activations";
  readonly weights?: "mapped" | "fed";
  /** Whether the last block computes only what `pooling` chooses in each row. */
  readonly pools?: boolean;
}

/** Blocks [from, to) with the parameters that belong to them; nothing is declared an output yet. */
export function assemble(
  spec: ModelSpec,
  blocks: BlockRange,
  {
    purpose,
    entry: kind = blocks.from === 0 ? "tokens" : "activations",
    weights = "mapped",
    pools = false,
  }: PartOptions,
): Parts {
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
    weight: weights === "fed" ? fedWeights(b, model) : mappedWeights(b, model),
    ...(weights === "mapped" ? { weightRows: mappedRows(b, model) } : {}),
    adapt: adapterOf(b, spec, parameters, purpose),
  };
  const family = familyOf(model.config);
  // Behind the last block of a classifier only the pooled tokens are left.
  const rows = pools && blocks.from === model.config.layers ? batch : batch * sequence;
  const entry =
    kind === "tokens"
      ? family.embed(context, b.input("input_ids", "int64", [batch, sequence]))
      : b.input("activations", "float32", [rows, model.config.hiddenSize]);
  const shared = family.shared(context, b.input("attention_mask", "int64", [batch, sequence]));
  const pooling = pools ? poolingRows(context) : undefined;
  const boundaries: Value[] = [];
  let hidden = entry;
  for (let index = blocks.from; index < blocks.to; index++) {
    const isLast = index === model.config.layers - 1;
    hidden = family.block(context, index, hidden, shared, isLast ? pooling : undefined);
    boundaries.push(hidden);
  }
  return { b, spec, context, blocks, parameters, entry, hidden, boundaries };
}

/** y + scale * (x A^T) B^T for targeted layers, x without what dropout takes; the sum happens inside the second product. */
function adapterOf(
  b: GraphBuilder,
  { model, lora }: ModelSpec,
  parameters: ReadonlyMap<string, Value>,
  purpose: Purpose,
): BlockContext["adapt"] {
  const drops = purpose === "training" && (lora.dropout ?? 0) > 0;
  const modules = new Map(
    targetedModules(model.config, lora).map((module) => [module.path, module]),
  );
  return (path, x, y) => {
    const module = modules.get(path);
    const a = module && parameters.get(loraName(module, "A"));
    const up = module && parameters.get(loraName(module, "B"));
    if (!a || !up) return y;
    const mask = drops && b.input(dropoutMaskName(module), "float32", x.shape);
    const kept = mask ? b.op("Mul", [x, mask], {}) : x; // [tokens, in]
    const low = b.op("Gemm", [kept, a], { alpha: 1, transA: false, transB: true }); // [tokens, rank]
    return b.op("Gemm", [low, up, y], {
      alpha: loraScale(lora),
      transA: false,
      transB: true,
    });
  };
}

interface Prediction {
  readonly logits: Value;
  /** Final states and the head's matrix, lm only. */
  readonly language?: { readonly states: Value; readonly matrix: Value };
}

/** The head over what leaves the last block: of every token, or of the pooled ones. */
function predict({ spec, context, hidden, parameters }: Parts): Prediction {
  const states = heads.finalStates(context, hidden);
  if (spec.head.kind === "classification") {
    const score = parameters.get(headParameter) as Value;
    return { logits: heads.classificationLogits(context, states, score) };
  }
  const matrix = heads.headMatrix(context);
  return { language: { states, matrix }, logits: heads.languageLogits(context, states, matrix) };
}

/** The input that chooses one token a row, [batch, 1, seq]. */
function poolingRows({ b, batch, sequence }: BlockContext): Value {
  const pooling = b.input("pooling", "float32", [batch, sequence]);
  return b.op("Reshape", [pooling], { shape: [batch, 1, sequence] });
}

function lossOf(
  { b, context }: Parts,
  { logits, language }: Prediction,
  { objective, wantsLogits }: { readonly objective: Objective; readonly wantsLogits: boolean },
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
  const targets = { labels, weights, smoothing: objective.smoothing ?? 0 };
  if (!language) return heads.labelLoss(context, { ...targets, logits });
  const pieces = wantsLogits ? [logits] : heads.languageLogitPieces(context, language.states);
  return heads.languageLoss(context, { ...targets, ...language, pieces });
}

function declareBoundaries({ b, boundaries }: Parts): void {
  for (const boundary of boundaries) b.output(boundary);
}

/** Whether the last block computes only the token that a classifier reads. */
function poolsIn({ head }: ModelSpec): boolean {
  return head.kind === "classification";
}

/** Gradients of the parameters and at the input, in one pass. */
function gradientsWithEntry(
  parts: Parts,
  seed: Seed,
): Required<Pick<StepGraph, "cutGradient" | "gradients">> {
  const { b, entry } = parts;
  const trained = trainedOf(parts);
  const found = gradients(b, [seed], [...trained.values(), entry]);
  for (const value of found) b.output(value);
  const names = found.map(({ name }) => name);
  return {
    cutGradient: names.at(-1) as string,
    gradients: new Map([...trained.keys()].map((name, i) => [name, names[i] as string])),
  };
}

function parameterGradients(parts: Parts, seed: Seed): Map<string, string> {
  const trained = trainedOf(parts);
  const found = gradients(parts.b, [seed], [...trained.values()]);
  for (const value of found) parts.b.output(value);
  return new Map([...trained.keys()].map((name, i) => [name, (found[i] as Value).name]));
}
