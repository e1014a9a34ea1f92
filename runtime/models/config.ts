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

/** Configuration of any supported family. */
export type ModelConfig = Gpt2Config;
