// Batches of a language model: every token's label is the one behind it.
import { float32, int64, type TensorBundle } from "../tensor.ts";
import { type BatchShape, type Example, makeBatch } from "./batches.ts";

/** A batch of texts whose tokens are predicted. */
export interface LanguageBatch {
  /** Tokens that have one before them: all but the first of each text. */
  readonly predicted: number;
  /** Every tensor a step may need, by graph input name. */
  readonly feeds: TensorBundle;
}

/** Tensors of a mean over all predicted tokens, or over `counted` ones; positions without a next token weigh nothing. */
export function makeLanguageBatch(examples: readonly Example[], shape: BatchShape): LanguageBatch {
  const { batch, sequence } = shape;
  const predicted = predictedTokens(examples, sequence);
  const labels = new BigInt64Array(batch * sequence);
  const weights = new Float32Array(batch * sequence);
  examples.forEach(({ tokens }, row) => {
    for (let i = 0; i + 1 < Math.min(tokens.length, sequence); i++) {
      labels[row * sequence + i] = BigInt(tokens[i + 1] as number);
      weights[row * sequence + i] = 1 / (shape.counted ?? predicted);
    }
  });
  const feeds: TensorBundle = new Map([
    ...makeBatch(examples, shape).feeds,
    ["labels", int64([batch * sequence], labels)] as const,
    ["weights", float32([batch * sequence], weights)] as const,
  ]);
  return { predicted, feeds };
}

/** Tokens of texts, cut to the sequence, that have one before them. */
export function predictedTokens(examples: readonly Example[], sequence: number): number {
  return examples.reduce(
    (sum, { tokens }) => sum + Math.max(0, Math.min(tokens.length, sequence) - 1),
    0,
  );
}
