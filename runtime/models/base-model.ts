// A frozen base model on disk, as graphs refer to it.
import type { ModelConfig } from "./config.ts";

/** Where one float32 tensor lies in the weights file. */
export interface WeightLocation {
  readonly shape: readonly number[];
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** A base model whose tensors lie as little-endian float32 in one file that sessions map. */
export interface BaseModel {
  readonly config: ModelConfig;
  /** Absolute path of the weights file. Never rewritten while mapped. */
  readonly weightsFile: string;
  /** By checkpoint name without the family's prefix (`wte.weight`, `h.0.attn.c_attn.weight`). */
  readonly weights: ReadonlyMap<string, WeightLocation>;
  /** sha256 over the configuration and each tensor's own sha256, in name order; equal models have equal ones. */
  readonly sha256: string;
}
