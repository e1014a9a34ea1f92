// Task heads and losses: what the last hidden state becomes and how wrong it is.
// Losses are weighted sums, so that padded examples and ignored tokens simply weigh nothing.
import type { Value } from "../graph/ir.ts";
import { familyOf } from "./families.ts";
import type { BlockContext } from "./family.ts";

/** Logits [batch, classes] of the pooled token's final states [batch, hidden]. */
export function classificationLogits(
  { b }: Pick<BlockContext, "b">,
  states: Value,
  score: Value,
): Value {
  return b.op("Gemm", [states, score], { alpha: 1, transA: false, transB: true }, "logits");
}

/** What a loss compares. */
export interface LabelTargets {
  readonly logits: Value;
  /** int64 [n]. */
  readonly labels: Value;
  /** How often each row counts, [n]. */
  readonly weights: Value;
  /** Share of the target that is spread over all classes alike (Szegedy et al. 2016); 0 when left out. */
  readonly smoothing?: number;
}

/** Cross-entropy of logits [n, classes] against labels, each row counted by its weight. */
export function labelLoss(
  { b }: Pick<BlockContext, "b">,
  { logits, labels, weights, smoothing = 0 }: LabelTargets,
): Value {
  const rows = logits.shape[0] as number;
  const column = b.op("Reshape", [labels], { shape: [rows, 1] });
  const chosen = b.op("GatherElements", [logits, column], { axis: 1 });
  const own = b.op("Reshape", [chosen], { shape: [rows] });
  return weightedSum({ b }, crossEntropy({ b }, { logits, own, smoothing }), weights);
}

/**
 * Distillation loss T^2 * cross-entropy of softmax(logits / T) against teacher probabilities [n, classes]
 * (Hinton, Vinyals, Dean 2015): its gradient is that of T^2 * KL(teacher || student).
 */
export function teacherLoss(
  { b }: BlockContext,
  {
    logits,
    teacher,
    weights,
    temperature,
  }: {
    readonly logits: Value;
    readonly teacher: Value;
    readonly weights: Value;
    readonly temperature: number;
  },
): Value {
  const soft = b.op("Mul", [logits, b.scalar(1 / temperature)], {});
  const total = b.op("ReduceLogSumExp", [soft], { axes: [1], keepDims: false });
  const expected = b.op("ReduceSum", [b.op("Mul", [teacher, soft], {})], {
    axes: [1],
    keepDims: false,
  });
  const loss = weightedSum({ b }, b.op("Sub", [total, expected], {}), weights);
  return b.op("Mul", [loss, b.scalar(temperature * temperature)], {}, "loss");
}

/** Hidden states [rows, hidden] after the final norm: what a head multiplies with its matrix. */
export function finalStates(context: BlockContext, hidden: Value): Value {
  return familyOf(context.config).finalNorm(context, hidden);
}

/** Language-model logits [n, vocab] of final states [n, hidden]. */
export function languageLogits(
  { b }: Pick<BlockContext, "b">,
  states: Value,
  matrix: Value,
): Value {
  return b.op("Gemm", [states, matrix], { alpha: 1, transA: false, transB: true }, "logits");
}

/** What a language-model head multiplies with, [vocab, hidden]. */
export function headMatrix({ config, weight }: BlockContext): Value {
  return weight(familyOf(config).headTensor(config));
}

/**
 * Causal-language-model loss. The label's logit is the product of the state with the label's own row
 * of the head's matrix W, so differentiating yields softmax * W - W[label] and no one-hot of the vocabulary exists.
 */
export function languageLoss(
  { b }: Pick<BlockContext, "b">,
  {
    states,
    matrix,
    logits,
    labels,
    weights,
    smoothing = 0,
  }: LabelTargets & { readonly states: Value; readonly matrix: Value },
): Value {
  const rows = b.op("Gather", [matrix, labels], {}); // [tokens, hidden]
  const own = b.op("ReduceSum", [b.op("Mul", [states, rows], {})], { axes: [1], keepDims: false });
  return weightedSum({ b }, crossEntropy({ b }, { logits, own, smoothing }), weights);
}

/**
 * Cross-entropy of each row [n], where `own` [n] is the label's logit. With smoothing e the target is (1 - e) of the label and e
 * spread evenly: log(sum(exp(logits))) - (1 - e) own - e mean(logits), which needs no one-hot.
 */
function crossEntropy(
  { b }: Pick<BlockContext, "b">,
  {
    logits,
    own,
    smoothing,
  }: { readonly logits: Value; readonly own: Value; readonly smoothing: number },
): Value {
  const total = b.op("ReduceLogSumExp", [logits], { axes: [1], keepDims: false });
  if (smoothing === 0) return b.op("Sub", [total, own], {});
  const mean = b.op("ReduceMean", [logits], { axes: [1], keepDims: false });
  const label = b.op("Mul", [own, b.scalar(1 - smoothing)], {});
  const spread = b.op("Mul", [mean, b.scalar(smoothing)], {});
  return b.op("Sub", [total, b.op("Add", [label, spread], {})], {});
}

function weightedSum({ b }: Pick<BlockContext, "b">, values: Value, weights: Value): Value {
  return b.op(
    "ReduceSum",
    [b.op("Mul", [values, weights], {})],
    { axes: [0], keepDims: false },
    "loss",
  );
}
