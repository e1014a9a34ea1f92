// Task heads and losses: what the last hidden state becomes and how wrong it is.
// Losses are weighted sums, so that padded examples and ignored tokens simply weigh nothing.
import type { Value } from "../graph/ir.ts";
import { familyOf } from "./families.ts";
import type { BlockContext } from "./family.ts";

/** Logits [batch, classes] of the pooled token; `pooling` [batch, seq] holds one 1 per row (the last real token). */
export function classificationLogits(
  context: BlockContext,
  hidden: Value,
  pooling: Value,
  score: Value,
): Value {
  const { b, batch, sequence, config } = context;
  const rows = b.op("Reshape", [pooling], { shape: [batch, 1, sequence] });
  const states = b.op("Reshape", [hidden], { shape: [batch, sequence, config.hiddenSize] });
  const pooled = b.op("Reshape", [b.op("MatMul", [rows, states], {})], {
    shape: [batch, config.hiddenSize],
  });
  // Normalising after pooling computes one token a text; it is per token, so the order does not matter.
  const normal = familyOf(config).finalNorm(context, pooled);
  return b.op("Gemm", [normal, score], { alpha: 1, transA: false, transB: true }, "logits");
}

/** Cross-entropy of logits [n, classes] against int64 labels [n], each row counted `weights` [n] times. */
export function labelLoss(
  { b }: BlockContext,
  logits: Value,
  labels: Value,
  weights: Value,
): Value {
  const rows = logits.shape[0] as number;
  const column = b.op("Reshape", [labels], { shape: [rows, 1] });
  const chosen = b.op("GatherElements", [logits, column], { axis: 1 });
  const own = b.op("Reshape", [chosen], { shape: [rows] });
  const total = b.op("ReduceLogSumExp", [logits], { axes: [1], keepDims: false });
  return weightedSum({ b }, b.op("Sub", [total, own], {}), weights);
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

/** Hidden states after the final norm, [tokens, hidden]: what the language-model head multiplies with its matrix. */
export function finalStates(context: BlockContext, hidden: Value): Value {
  return familyOf(context.config).finalNorm(context, hidden);
}

/** Language-model logits [tokens, vocab] of final states. */
export function languageLogits({ b, config, weight }: BlockContext, states: Value): Value {
  return b.op(
    "Gemm",
    [states, weight(familyOf(config).headTensor(config))],
    { alpha: 1, transA: false, transB: true },
    "logits",
  );
}

/**
 * Causal-language-model loss. The label's logit is the product of the state with the label's own row
 * of the head W, so differentiating yields softmax * W - W[label] and no one-hot of the vocabulary exists.
 */
export function languageLoss(
  { b, config, weight }: BlockContext,
  {
    states,
    logits,
    labels,
    weights,
  }: {
    readonly states: Value;
    readonly logits: Value;
    readonly labels: Value;
    readonly weights: Value;
  },
): Value {
  const head = weight(familyOf(config).headTensor(config));
  const rows = b.op("Gather", [head, labels], {}); // [tokens, hidden]
  const own = b.op("ReduceSum", [b.op("Mul", [states, rows], {})], { axes: [1], keepDims: false });
  const total = b.op("ReduceLogSumExp", [logits], { axes: [1], keepDims: false });
  return weightedSum({ b }, b.op("Sub", [total, own], {}), weights);
}

function weightedSum({ b }: Pick<BlockContext, "b">, values: Value, weights: Value): Value {
  return b.op(
    "ReduceSum",
    [b.op("Mul", [values, weights], {})],
    { axes: [0], keepDims: false },
    "loss",
  );
}
