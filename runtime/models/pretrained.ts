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
import { checkFinite, folderFingerprint, openModelFolder } from "./model-folder.ts";
import { cacheModel, findCachedModel, modelSha256, tensorSha256 } from "./weights-cache.ts";

export { saveModelFolder } from "./model-folder.ts";

/** Where a base model's float32 weights are kept. */
export interface BaseModelOptions {
  /** Made when missing; processes may share it. Holds 4 bytes a parameter for each model. */
  readonly cacheFolder: string;
}

/**
 * Opens a Hugging Face GPT-2 folder (config.json, model.safetensors in F32, F16 or BF16).
 *
 * The first time, every tensor is read, checked and written to the cache, one in memory at a time; while
 * the folder's files stay untouched, later calls read a few kilobytes. Throws `MODEL_FOLDER_INVALID`,
 * `MODEL_FILE_TRUNCATED`, `MODEL_UNSUPPORTED` or `MODEL_TENSOR_*` with file, tensor, expected and actual.
 */
export async function openBaseModel(
  folder: string,
  { cacheFolder }: BaseModelOptions,
): Promise<BaseModel> {
  const source = await openModelFolder(folder);
  const fingerprint = await folderFingerprint(folder);
  const note = await sourceNote(cacheFolder, fingerprint);
  const known = await readNote(note);
  const cached = await findCachedModel(source.config, known, cacheFolder);
  if (cached !== undefined) return cached;
  await source.checkTiedHead();
  const model = await cacheModel(source.config, source.readTensor, cacheFolder);
  // A folder that changed while it was read must not be remembered under its new content.
  if ((await folderFingerprint(folder)) === fingerprint) await writeFileAtomic(note, model.sha256);
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
    hashes[name] = { sha256: tensorSha256(tensor) };
  }
  const cached = await findCachedModel(config, modelSha256(config, hashes), cacheFolder);
  if (cached !== undefined) return cached;
  return await cacheModel(config, async (name) => tensors.get(name) as Float32Tensor, cacheFolder);
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
