// The configuration of a base model: the fields of a Hugging Face config.json that shape the numbers.

/** A GPT-2 style decoder. */
export interface Gpt2Config {
  readonly family: "gpt2";
  readonly vocabSize: number;
  /** Longest sequence (n_positions). */
  readonly positions: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  /** Width of the feed-forward layer. */
  readonly innerSize: number;
  readonly layerNormEpsilon: number;
  /** Id that fills short sequences; any id will do, because padding is masked. */
  readonly padTokenId: number;
}

/** A Llama style decoder: Llama 2 and 3, SmolLM2, Qwen2, Qwen2.5, Qwen3, Mistral without a sliding window. */
export interface LlamaConfig {
  readonly family: "llama";
  readonly vocabSize: number;
  /** Longest sequence (max_position_embeddings). */
  readonly positions: number;
  readonly hiddenSize: number;
  readonly layers: number;
  /** Query heads; a multiple of `keyValueHeads`. */
  readonly heads: number;
  /** Heads of keys and values, each read by heads / keyValueHeads query heads (Ainslie et al. 2023). */
  readonly keyValueHeads: number;
  /** Width of a head, even; heads * headSize may differ from `hiddenSize`. */
  readonly headSize: number;
  /** Width of the gated feed-forward layer. */
  readonly innerSize: number;
  readonly rmsNormEpsilon: number;
  /** Base of the rotary frequencies. */
  readonly ropeTheta: number;
  /** How the frequencies are stretched for long contexts; null when they are not. */
  readonly ropeScaling: Llama3RopeScaling | null;
  /** Biases of query, key and value projections. */
  readonly attentionBias: boolean;
  /** Bias of the projection behind attention. */
  readonly outputBias: boolean;
  /** Biases of the feed-forward layer. */
  readonly feedForwardBias: boolean;
  /** RMS normalisation of each head's queries and keys before the rotation (Qwen3). */
  readonly queryKeyNorm: boolean;
  /** Whether the language-model head is the token embedding. */
  readonly tiedEmbedding: boolean;
  /** Id that fills short sequences; any id will do, because padding is masked. */
  readonly padTokenId: number;
}

/** Llama 3's stretching of slow rotary frequencies (`rope_type: "llama3"`). */
export interface Llama3RopeScaling {
  readonly factor: number;
  readonly lowFrequencyFactor: number;
  readonly highFrequencyFactor: number;
  /** Positions that the model was trained on before stretching. */
  readonly originalPositions: number;
}

/** Configuration of any supported family. */
export type ModelConfig = Gpt2Config | LlamaConfig;
