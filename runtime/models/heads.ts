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

/** What a loss compares with. */
export interface LabelTargets {
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
  { logits, labels, weights, smoothing = 0 }: LabelTargets & { readonly logits: Value },
): Value {
  const rows = logits.shape[0] as number;
  const column = b.op("Reshape", [labels], { shape: [rows, 1] });
  const chosen = b.op("GatherElements", [logits, column], { axis: 1 });
  const own = b.op("Reshape", [chosen], { shape: [rows] });
  return weightedSum({ b }, crossEntropy({ b }, { pieces: [logits], own, smoothing }), weights);
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
  const total = b.op("LogSumExp", [soft], {});
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
 * The same logits for a loss, [n, rows] of a part of the vocabulary each: what is computed of one piece stays in the
 * processor's cache, and no second array of [n, vocab] comes to be.
 */
export function languageLogitPieces(context: BlockContext, states: Value): readonly Value[] {
  const { b, config, weightRows } = context;
  const [tokens = 0] = states.shape;
  const { vocabSize } = config;
  const count = Math.ceil((tokens * vocabSize * Float32Array.BYTES_PER_ELEMENT) / pieceBytes);
  if (!weightRows || count === 1) return [languageLogits({ b }, states, headMatrix(context))];
  const rows = Math.ceil(vocabSize / count);
  return Array.from({ length: Math.ceil(vocabSize / rows) }, (_, i) => {
    const end = Math.min(vocabSize, (i + 1) * rows);
    const part = weightRows(familyOf(config).headTensor(config), i * rows, end);
    return languageLogits({ b }, states, part);
  });
}

/** About a processor's second or third cache; smaller pieces make more products than they save. */
const pieceBytes = 2 ** 23;

/**
 * Causal-language-model loss. The label's logit is the product of the state with the label's own row
 * of the head's matrix W, so differentiating yields softmax * W - W[label] and no one-hot of the vocabulary exists.
 */
export function languageLoss(
  { b }: Pick<BlockContext, "b">,
  { states, matrix, pieces, labels, weights, smoothing = 0 }: LabelTargets & LanguagePrediction,
): Value {
  const rows = b.op("Gather", [matrix, labels], {}); // [tokens, hidden]
  const own = b.op("ReduceSum", [b.op("Mul", [states, rows], {})], { axes: [1], keepDims: false });
  return weightedSum({ b }, crossEntropy({ b }, { pieces, own, smoothing }), weights);
}

/** What a language model foresees: final states, the head's matrix, and its logits in pieces of the vocabulary. */
export interface LanguagePrediction {
  readonly states: Value;
  readonly matrix: Value;
  /** Each [n, part of the vocabulary], in order. */
  readonly pieces: readonly Value[];
}

/**
 * Cross-entropy of each row [n], where `own` [n] is the label's logit. With smoothing e the target is (1 - e) of the label and e
 * spread evenly: log(sum(exp(logits))) - (1 - e) own - e mean(logits), which needs no one-hot.
 */
function crossEntropy(
  { b }: Pick<BlockContext, "b">,
  {
    pieces,
    own,
    smoothing,
  }: { readonly pieces: readonly Value[]; readonly own: Value; readonly smoothing: number },
): Value {
  const parts = pieces.map((logits) => b.op("LogSumExp", [logits], {}));
  const total =
    parts.length === 1 ? (parts[0] as Value) : b.op("LogSumExp", [columns({ b }, parts)], {});
  if (smoothing === 0) return b.op("Sub", [total, own], {});
  const sums = pieces.map((logits) => b.op("ReduceSum", [logits], { axes: [1], keepDims: false }));
  const classes = pieces.reduce((sum, { shape }) => sum + (shape[1] as number), 0);
  const all = b.op("ReduceSum", [columns({ b }, sums)], { axes: [1], keepDims: false });
  const label = b.op("Mul", [own, b.scalar(1 - smoothing)], {});
  const spread = b.op("Mul", [all, b.scalar(smoothing / classes)], {});
  return b.op("Sub", [total, b.op("Add", [label, spread], {})], {});
}

/** Vectors [n] beside each other, [n, count]. */
function columns({ b }: Pick<BlockContext, "b">, vectors: readonly Value[]): Value {
  const shaped = vectors.map((vector) =>
    b.op("Reshape", [vector], { shape: [vector.shape[0] as number, 1] }),
  );
  return shaped.length === 1 ? (shaped[0] as Value) : b.op("Concat", shaped, { axis: 1 });
}

function weightedSum({ b }: Pick<BlockContext, "b">, values: Value, weights: Value): Value {
  return b.op(
    "ReduceSum",
    [b.op("Mul", [values, weights], {})],
    { axes: [0], keepDims: false },
    "loss",
  );
}
