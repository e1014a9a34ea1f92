// A model's configuration as it crosses the wire: one schema for each family.
import { z } from "zod";
import type { ModelConfig } from "../runtime/index.ts";

const size = z
  .int()
  .positive()
  .max(2 ** 31);
const positive = z.number().positive();

const common = {
  vocabSize: size,
  positions: size,
  hiddenSize: size,
  layers: size.max(1024),
  heads: size,
  innerSize: size,
  padTokenId: z.int().nonnegative(),
};

const gpt2 = z.strictObject({
  family: z.literal("gpt2"),
  ...common,
  layerNormEpsilon: positive,
});

const llama = z.strictObject({
  family: z.literal("llama"),
  ...common,
  keyValueHeads: size,
  headSize: size,
  rmsNormEpsilon: positive,
  ropeTheta: positive,
  ropeScaling: z
    .strictObject({
      factor: positive,
      lowFrequencyFactor: positive,
      highFrequencyFactor: positive,
      originalPositions: positive,
    })
    .nullable(),
  attentionBias: z.boolean(),
  outputBias: z.boolean(),
  feedForwardBias: z.boolean(),
  queryKeyNorm: z.boolean(),
  tiedEmbedding: z.boolean(),
});

/** Schema of a configuration of any family; foreign sizes are bounded. */
export const modelConfigSchema: z.ZodType<ModelConfig> = z.discriminatedUnion("family", [
  gpt2,
  llama,
]);
