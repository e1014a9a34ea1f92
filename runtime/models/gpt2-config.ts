// Hugging Face's `GPT2Config` as config.json holds it, read and written.
import { z } from "zod";
import type { Gpt2Config } from "./config.ts";
import {
  type ComputedValues,
  type ConfigSource,
  padTokenId,
  parseFields,
  refuseOtherValues,
  size,
  tokenIdFields,
  unsupported,
} from "./config-fields.ts";

/** The configuration in a config.json of `model_type` gpt2. */
export function parseGpt2Config(source: ConfigSource): Gpt2Config {
  refuseOtherValues(source, computedValues);
  const fields = parseFields(source, schema);
  if (fields.n_embd % fields.n_head !== 0) {
    const expected = `a multiple of n_head ${fields.n_head}`;
    throw unsupported(source.file, "n_embd", { value: fields.n_embd, expected });
  }
  return {
    family: "gpt2",
    vocabSize: fields.vocab_size,
    positions: fields.n_positions,
    hiddenSize: fields.n_embd,
    layers: fields.n_layer,
    heads: fields.n_head,
    innerSize: fields.n_inner ?? 4 * fields.n_embd,
    layerNormEpsilon: fields.layer_norm_epsilon,
    padTokenId: padTokenId(fields, fields.vocab_size),
  };
}

/** The fields that `GPT2Config` reads back to the same numbers. */
export function writeGpt2Config(config: Gpt2Config): Readonly<Record<string, unknown>> {
  return {
    activation_function: "gelu_new",
    architectures: ["GPT2LMHeadModel"],
    layer_norm_epsilon: config.layerNormEpsilon,
    model_type: "gpt2",
    n_ctx: config.positions,
    n_embd: config.hiddenSize,
    n_head: config.heads,
    n_inner: config.innerSize,
    n_layer: config.layers,
    n_positions: config.positions,
    pad_token_id: config.padTokenId,
    tie_word_embeddings: true,
    vocab_size: config.vocabSize,
  };
}

const schema = z.looseObject({
  vocab_size: size(10_000_000),
  n_positions: size(10_000_000),
  n_embd: size(1_000_000),
  n_layer: size(10_000),
  n_head: size(10_000),
  n_inner: size(10_000_000).nullish(),
  layer_norm_epsilon: z.number().positive().default(1e-5),
  ...tokenIdFields,
});

const computedValues: ComputedValues = {
  activation_function: ["gelu_new", "gelu_pytorch_tanh"],
  scale_attn_weights: [true],
  scale_attn_by_inverse_layer_idx: [false],
  reorder_and_upcast_attn: [false],
  add_cross_attention: [false],
  tie_word_embeddings: [true],
  quantization_config: [null],
};
