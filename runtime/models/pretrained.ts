// Base models as graphs use them: from a Hugging Face folder or from tensors, into the weights cache.
import { createHash } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { runtimeErrors } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { elementCount, type Float32Tensor, sameShape, type TensorBundle } from "../tensor.ts";
import type { BaseModel } from "./base-model.ts";
import type { ModelConfig } from "./config.ts";
import { tensorShapes } from "./families.ts";
import { isImported, openImported } from "./imported-model.ts";
import {
  checkFinite,
  folderFingerprint,
  openModelFolder,
  readModelConfig,
} from "./model-folder.ts";
import { cacheModel, findCachedModel } from "./weights-cache.ts";
import { modelSha256 } from "./weights-file.ts";

export { importModel } from "./imported-model.ts";
export { readModelConfig, saveModelFolder } from "./model-folder.ts";
export type { WeightsProgress } from "./weights-file.ts";

/** Where a base model's float32 weights are kept. */
export interface BaseModelOptions {
  /** Made when missing; processes may share it. Holds 4 bytes a parameter for each model. */
  readonly cacheFolder: string;
}

/**
 * Opens an imported model, or a Hugging Face folder (config.json, one or several safetensors files in F32, F16 or BF16).
 *
 * The weights of an imported model are mapped where they are. A Hugging Face folder's are read, checked and written to
 * the cache the first time, a few megabytes in memory; while its files stay untouched, later calls read a few
 * kilobytes. Throws `MODEL_FOLDER_INVALID`, `MODEL_FILE_TRUNCATED`, `MODEL_UNSUPPORTED`, `MODEL_TENSOR_*` with file,
 * tensor, expected and actual, or `WEIGHTS_WRITE_FAILED`.
 */
export async function openBaseModel(
  folder: string,
  { cacheFolder }: BaseModelOptions,
): Promise<BaseModel> {
  if (isImported(folder)) return await openImported(folder, await readModelConfig(folder));
  const source = await openModelFolder(folder);
  const fingerprint = await folderFingerprint(folder, source.files);
  const note = await sourceNote(cacheFolder, fingerprint);
  const known = await readNote(note);
  const cached = await findCachedModel(source.config, known, cacheFolder);
  if (cached !== undefined) return cached;
  await source.checkTiedHead();
  const model = await cacheModel(source.config, source.readTensor, cacheFolder);
  // A folder that changed while it was read must not be remembered under its new content.
  if ((await folderFingerprint(folder, source.files)) === fingerprint)
    await writeFileAtomic(note, model.sha256);
  return model;
}

/** Puts the tensors of `tensorShapes(config)` into the cache: random weights, or weights just trained. */
export async function baseModelFromTensors(
  config: ModelConfig,
  tensors: TensorBundle<Float32Tensor>,
  { cacheFolder }: BaseModelOptions,
): Promise<BaseModel> {
  const hashes: Record<string, { readonly sha256: string }> = {};
  for (const [name, shape] of tensorShapes(config)) {
    const tensor = checkedTensor(tensors.get(name), name, shape);
    hashes[name] = { sha256: createHash("sha256").update(bytesOf(tensor)).digest("hex") };
  }
  const cached = await findCachedModel(config, modelSha256(config, hashes), cacheFolder);
  if (cached !== undefined) return cached;
  const readTensor = async function* (name: string) {
    yield (tensors.get(name) as Float32Tensor).data;
  };
  return await cacheModel(config, readTensor, cacheFolder);
}

function bytesOf({ data }: Float32Tensor): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** The tensors of a base model, read back from its weights file: all of them, so for small models and tests. */
export async function readBaseModelTensors(model: BaseModel): Promise<TensorBundle<Float32Tensor>> {
  const bytes = await readFile(model.weightsFile);
  return new Map(
    [...model.weights].map(([name, { shape, offsetBytes, lengthBytes }]) => {
      const data = new Float32Array(elementCount(shape));
      new Uint8Array(data.buffer).set(bytes.subarray(offsetBytes, offsetBytes + lengthBytes));
      return [name, { dtype: "float32", shape, data }];
    }),
  );
}

function checkedTensor(
  tensor: Float32Tensor | undefined,
  name: string,
  shape: readonly number[],
): Float32Tensor {
  const expected = `expected [${shape.join(", ")}]`;
  if (tensor === undefined) {
    throw runtimeErrors.error("MODEL_TENSOR_MISSING", `tensor ${name} is missing, ${expected}`);
  }
  if (!sameShape(tensor.shape, shape) || tensor.data.length !== elementCount(shape)) {
    const actual = `[${tensor.shape.join(", ")}] over ${tensor.data.length} values`;
    throw runtimeErrors.error(
      "MODEL_TENSOR_SHAPE",
      `tensor ${name} has shape ${actual}, ${expected}`,
    );
  }
  checkFinite(tensor, `tensor ${name}`);
  return tensor;
}

/** File that remembers which cached model a folder's files became. */
async function sourceNote(cacheFolder: string, fingerprint: string): Promise<string> {
  const sources = join(cacheFolder, "sources");
  await mkdir(sources, { recursive: true });
  return join(sources, createHash("sha256").update(fingerprint).digest("hex"));
}

async function readNote(note: string): Promise<string> {
  try {
    return await readFile(note, "utf8");
  } catch {
    // Never seen; any other fault shows when the note is written.
    return "";
  }
}
