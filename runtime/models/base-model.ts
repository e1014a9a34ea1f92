// A frozen base model on disk, as graphs refer to it.
import type { ModelConfig } from "./config.ts";

/** Where one float32 tensor lies. */
export interface WeightLocation {
  readonly shape: readonly number[];
  /** Absolute path of the tensor's own file, in the folder of the weights file; the model's weights file when left out. */
  readonly file?: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** How the weights of a model's linear layers are stored. */
export type WeightFormat = "float32" | QuantisedFormat;

/** Formats that round weights: one byte or half a byte each, and a float32 scale for a block of them. */
export type QuantisedFormat = "int8" | "int4";

/** Where one quantised weight lies: int8 or int4 [rows, columns] and float32 scales [rows / blockSize, columns]. */
export interface QuantisedLocation {
  readonly shape: readonly number[];
  readonly blockSize: number;
  readonly dataOffsetBytes: number;
  readonly dataLengthBytes: number;
  readonly scalesOffsetBytes: number;
  readonly scalesLengthBytes: number;
}

/** The quantised linear layers of a model, in a file beside its float32 weights. */
export interface QuantisedWeights {
  readonly format: QuantisedFormat;
  readonly file: string;
  /** By checkpoint name; weights that are not here are float32. */
  readonly tensors: ReadonlyMap<string, QuantisedLocation>;
}

/** A base model whose tensors lie as little-endian float32 in files of one folder that sessions map. */
export interface BaseModel {
  readonly config: ModelConfig;
  /** Absolute path of the weights file, absent on disk where every tensor has its own. Never rewritten while mapped. */
  readonly weightsFile: string;
  /** By checkpoint name without the family's prefix (`wte.weight`, `h.0.attn.c_attn.weight`); a device with a part of the model has those of its part. */
  readonly weights: ReadonlyMap<string, WeightLocation>;
  /** Present when graphs are to compute with quantised linear layers in place of the float32 ones. */
  readonly quantised?: QuantisedWeights;
  /** sha256 over the configuration and each tensor's own sha256, in name order; equal models have equal ones, quantised or not. */
  readonly sha256: string;
}

/** The file that a tensor of the model lies in. */
export function fileOf(model: BaseModel, { file }: WeightLocation): string {
  return file ?? model.weightsFile;
}
