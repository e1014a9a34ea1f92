// Hugging Face's `LlamaConfig`, `Qwen2Config`, `Qwen3Config` and `MistralConfig` as config.json holds them, read and
// written. Absent fields mean what these classes take for them.
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import type { LlamaConfig } from "./config.ts";
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
import { parseRope, ropeFields } from "./rope-config.ts";

/** A value of `model_type` that this family computes. */
export type LlamaModelType = "llama" | "mistral" | "qwen2" | "qwen3";

/** The configuration in a config.json of one of these model types. */
export function parseLlamaConfig(source: ConfigSource, modelType: LlamaModelType): LlamaConfig {
  const { defaults, biases } = modelTypes[modelType];
  refuseOtherValues(source, computedValues);
  refuseWindows(source, modelType);
  const fields = parseFields(source, schema);
  const keyValueHeads = required(source, fields, defaults, "num_key_value_heads");
  const headSize = required(source, fields, defaults, "head_dim");
  checkHeads(source.file, { heads: fields.num_attention_heads, keyValueHeads, headSize });
  return {
    family: "llama",
    vocabSize: fields.vocab_size,
    positions: required(source, fields, defaults, "max_position_embeddings"),
    hiddenSize: fields.hidden_size,
    layers: fields.num_hidden_layers,
    heads: fields.num_attention_heads,
    keyValueHeads,
    headSize,
    innerSize: fields.intermediate_size,
    rmsNormEpsilon: fields.rms_norm_eps,
    ...parseRope(source),
    ...biases(fields),
    queryKeyNorm: modelType === "qwen3",
    tiedEmbedding: fields.tie_word_embeddings,
    padTokenId: padTokenId(fields, fields.vocab_size),
  };
}

/** The fields that the class of the model type reads back to the same numbers; throws `MODEL_UNSUPPORTED` when there is none. */
export function writeLlamaConfig(config: LlamaConfig): Readonly<Record<string, unknown>> {
  const modelType = modelTypeOf(config);
  return {
    architectures: [modelTypes[modelType].architecture],
    ...(modelType === "qwen2" ? {} : { attention_bias: config.attentionBias }),
    head_dim: config.headSize,
    hidden_act: "silu",
    hidden_size: config.hiddenSize,
    intermediate_size: config.innerSize,
    max_position_embeddings: config.positions,
    ...(modelType === "llama" ? { mlp_bias: config.feedForwardBias } : {}),
    model_type: modelType,
    num_attention_heads: config.heads,
    num_hidden_layers: config.layers,
    num_key_value_heads: config.keyValueHeads,
    pad_token_id: config.padTokenId,
    rms_norm_eps: config.rmsNormEpsilon,
    ...ropeFields(config),
    tie_word_embeddings: config.tiedEmbedding,
    vocab_size: config.vocabSize,
  };
}

const schema = z.looseObject({
  vocab_size: size(10_000_000),
  max_position_embeddings: size(100_000_000).nullish(),
  hidden_size: size(1_000_000),
  intermediate_size: size(10_000_000),
  num_hidden_layers: size(10_000),
  num_attention_heads: size(10_000),
  num_key_value_heads: size(10_000).nullish(),
  head_dim: size(100_000).nullish(),
  rms_norm_eps: z.number().positive().default(1e-6),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
  ...tokenIdFields,
});
type Fields = z.output<typeof schema>;

/** Settings of any of these classes, and of models that call themselves by their names. */
const computedValues: ComputedValues = {
  hidden_act: ["silu", "swish"],
  pretraining_tp: [1],
  use_sliding_window: [false],
  use_mrope: [false],
  quantization_config: [null],
};

type Optional = "num_key_value_heads" | "head_dim" | "max_position_embeddings";

interface ModelType {
  readonly architecture: string;
  /** What absent or null fields mean; an absent field that has none here is refused. */
  readonly defaults: Partial<Record<Optional, (fields: Fields) => number>>;
  readonly biases: (
    fields: Fields,
  ) => Pick<LlamaConfig, "attentionBias" | "outputBias" | "feedForwardBias">;
}

const headFraction = (fields: Fields) => fields.hidden_size / fields.num_attention_heads;
const everyHead = (fields: Fields) => fields.num_attention_heads;

const modelTypes: { readonly [Name in LlamaModelType]: ModelType } = {
  llama: {
    architecture: "LlamaForCausalLM",
    defaults: {
      num_key_value_heads: everyHead,
      head_dim: headFraction,
      max_position_embeddings: () => 2048,
    },
    biases: (fields) => ({
      attentionBias: fields.attention_bias,
      outputBias: fields.attention_bias,
      feedForwardBias: fields.mlp_bias,
    }),
  },
  mistral: {
    architecture: "MistralForCausalLM",
    defaults: { head_dim: headFraction },
    biases: () => ({ attentionBias: false, outputBias: false, feedForwardBias: false }),
  },
  qwen2: {
    architecture: "Qwen2ForCausalLM",
    defaults: { head_dim: headFraction, max_position_embeddings: () => 32_768 },
    // Whatever the fields say: `Qwen2Attention` has them always.
    biases: () => ({ attentionBias: true, outputBias: false, feedForwardBias: false }),
  },
  qwen3: {
    architecture: "Qwen3ForCausalLM",
    defaults: { head_dim: () => 128, max_position_embeddings: () => 32_768 },
    biases: (fields) => ({
      attentionBias: fields.attention_bias,
      outputBias: fields.attention_bias,
      feedForwardBias: false,
    }),
  },
};

function required(
  source: ConfigSource,
  fields: Fields,
  defaults: ModelType["defaults"],
  field: Optional,
): number {
  const value = fields[field] ?? defaults[field]?.(fields);
  if (value !== undefined) return value;
  throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${source.file}: ${field} is missing`, {
    hint: "Use the config.json that belongs to the weights.",
  });
}

/** Layers that see only the nearest tokens. */
function refuseWindows({ file, fields }: ConfigSource, modelType: LlamaModelType): void {
  // Only Mistral's class looks at it by itself, and takes 4096 for an absent one.
  if (modelType === "mistral" && fields["sliding_window"] !== null) {
    throw unsupported(file, "sliding_window", {
      value: fields["sliding_window"],
      expected: "null",
    });
  }
  const layerTypes = fields["layer_types"];
  if (layerTypes === undefined || layerTypes === null) return;
  const isFull = Array.isArray(layerTypes) && layerTypes.every((type) => type === "full_attention");
  if (isFull) return;
  throw unsupported(file, "layer_types", { value: layerTypes, expected: '"full_attention" only' });
}

function checkHeads(
  file: string,
  {
    heads,
    keyValueHeads,
    headSize,
  }: Readonly<Record<"heads" | "keyValueHeads" | "headSize", number>>,
): void {
  if (heads % keyValueHeads !== 0) {
    const expected = `a multiple of num_key_value_heads ${keyValueHeads}`;
    throw unsupported(file, "num_attention_heads", { value: heads, expected });
  }
  // Rotation takes the elements of a head in pairs.
  if (headSize % 2 !== 0) {
    const expected = "an even number (hidden_size / num_attention_heads when it is absent)";
    throw unsupported(file, "head_dim", { value: headSize, expected });
  }
}

function modelTypeOf(config: LlamaConfig): LlamaModelType {
  const { attentionBias, outputBias, feedForwardBias, queryKeyNorm } = config;
  if (attentionBias === outputBias && !(queryKeyNorm && feedForwardBias)) {
    return queryKeyNorm ? "qwen3" : "llama";
  }
  if (attentionBias && !outputBias && !feedForwardBias && !queryKeyNorm) return "qwen2";
  throw runtimeErrors.error(
    "MODEL_UNSUPPORTED",
    `no Hugging Face class has attentionBias ${attentionBias}, outputBias ${outputBias}, feedForwardBias ${feedForwardBias} and queryKeyNorm ${queryKeyNorm} together`,
  );
}
