// `trifold import`: a Hugging Face folder becomes a folder whose weights every command maps as they lie there.
import { stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import {
  elementCount,
  importModel,
  openTokenizer,
  readModelConfig,
  tensorShapes,
  type WeightsProgress,
} from "../../runtime/index.ts";
import { checkTokenizer } from "../model-and-tokenizer.ts";

/** What to import, and to where. */
export interface ImportOptions {
  /** Hugging Face folder with config.json, tokenizer.json and safetensors files. */
  readonly folder: string;
  /** Absent or empty; default `./<name>-trifold`. */
  readonly out?: string;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: WeightsProgress) => void;
}

/** What was imported. */
export interface ImportReport {
  /** What computes it: `gpt2` or `llama`. */
  readonly family: string;
  readonly parameters: number;
  /** Size of the float32 weights file. */
  readonly bytes: number;
  /** Identity of configuration and weights: `BaseModel.sha256`. */
  readonly sha256: string;
  /** Absolute. */
  readonly out: string;
}

/** Imports a model; its tokenizer is checked before the weights are read. Leaves nothing behind on failure. */
export async function importFolder(options: ImportOptions): Promise<ImportReport> {
  const { folder, signal, onProgress } = options;
  const out = resolve(options.out ?? `${basename(resolve(folder))}-trifold`);
  const config = await readModelConfig(folder);
  checkTokenizer(folder, await openTokenizer(folder), config);
  const { sha256 } = await importModel(folder, out, { signal, onProgress });
  const { size: bytes } = await stat(join(out, "weights.f32"));
  const shapes = [...tensorShapes(config).values()];
  const parameters = shapes.reduce((sum, shape) => sum + elementCount(shape), 0);
  return { family: config.family, parameters, bytes, sha256, out };
}
