// Imported models: a folder that holds a model's configuration, its tokenizer and its weights as sessions map them
// (weights-file.ts), so that opening it copies nothing.
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, mkdir, readdir, rename, rm, rmdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { runtimeErrors } from "../errors.ts";
import { syncFolder } from "../files.ts";
import type { BaseModel } from "./base-model.ts";
import type { ModelConfig } from "./config.ts";
import { readJsonFile } from "./json-file.ts";
import { openModelFolder } from "./model-folder.ts";
import {
  indexedModel,
  indexName,
  indexSchema,
  type WeightsWriting,
  weightsName,
  writeFault,
  writeWeights,
} from "./weights-file.ts";

/**
 * Makes an imported model of a Hugging Face folder at `out`, which must be absent or empty: written beside and
 * renamed, so that it appears as a whole. On failure or when the signal aborts nothing is left behind. Throws what
 * `openBaseModel` throws, `MODEL_OUT_EXISTS` and `WEIGHTS_WRITE_FAILED`.
 */
export async function importModel(
  folder: string,
  out: string,
  writing: WeightsWriting = {},
): Promise<BaseModel> {
  const target = resolve(out);
  await refuseFull(target);
  if (isImported(folder)) {
    throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${folder} is an imported model already`, {
      hint: "Copy the folder; every command takes it as it is.",
    });
  }
  const source = await openModelFolder(folder);
  await source.checkTiedHead();
  const building = join(
    dirname(target),
    `.${basename(target)}-${randomBytes(6).toString("hex")}.new`,
  );
  try {
    await mkdir(building, { recursive: true });
    const index = await writeWeights(building, source.config, source.readTensor, writing);
    for (const name of companions) {
      if (existsSync(join(folder, name))) await copyFile(join(folder, name), join(building, name));
    }
    await syncFolder(building);
    writing.signal?.throwIfAborted();
    // Windows renames onto no folder, not even an empty one.
    if (existsSync(target)) await rmdir(target);
    await rename(building, target);
    await syncFolder(dirname(target));
    return indexedModel(source.config, index, join(target, weightsName)) as BaseModel;
  } catch (cause) {
    throw writeFault(cause, target);
  } finally {
    await rm(building, { recursive: true, force: true });
  }
}

/** Whether a folder is an imported model rather than a Hugging Face folder. */
export function isImported(folder: string): boolean {
  return existsSync(join(folder, weightsName)) && existsSync(join(folder, indexName));
}

/** Opens an imported model; throws `MODEL_FOLDER_INVALID` or `MODEL_FILE_TRUNCATED` when it is not as `importModel` left it. */
export async function openImported(folder: string, config: ModelConfig): Promise<BaseModel> {
  const indexFile = join(folder, indexName);
  const weightsFile = resolve(folder, weightsName);
  const parsed = indexSchema.safeParse(
    await readJsonFile(indexFile, { code: "MODEL_FOLDER_INVALID", hint }),
  );
  if (!parsed.success) throw invalid(`${indexFile} is not the index of an imported model`);
  const { size } = await stat(weightsFile);
  if (size !== parsed.data.sizeBytes) {
    throw runtimeErrors.error(
      "MODEL_FILE_TRUNCATED",
      `${weightsFile} holds ${size} bytes, ${indexName} says ${parsed.data.sizeBytes}`,
      { hint },
    );
  }
  const model = indexedModel(config, parsed.data, weightsFile);
  if (model === undefined) throw invalid(`${indexFile} does not fit the model of config.json`);
  return model;
}

const hint = "Import the model again, or copy its whole folder again.";

/** What is copied as it is, where the folder has it. */
const companions = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

async function refuseFull(target: string): Promise<void> {
  if (!existsSync(target)) return;
  const isFolder = (await stat(target)).isDirectory();
  if (isFolder && (await readdir(target)).length === 0) return;
  throw runtimeErrors.error("MODEL_OUT_EXISTS", `${target} is there already`, {
    hint: "Give another folder with --out, or remove this one when nothing uses it.",
  });
}

function invalid(message: string): Error {
  return runtimeErrors.error("MODEL_FOLDER_INVALID", message, { hint });
}
