// The cache of base models: a folder `<cache>/<sha256>` in the layout of weights-file.ts for each. A folder appears as
// a whole by a rename and is never rewritten, so processes may build the same model at once: the first rename
// wins and the others take its folder.
import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { syncFolder } from "../files.ts";
import type { BaseModel } from "./base-model.ts";
import type { ModelConfig } from "./config.ts";
import {
  indexedModel,
  indexName,
  indexSchema,
  modelSha256,
  type TensorReader,
  weightsName,
  writeFault,
  writeWeights,
} from "./weights-file.ts";

/** The cached model of that hash, or nothing when the cache has none that is sound. */
export async function findCachedModel(
  config: ModelConfig,
  sha256: string,
  cacheFolder: string,
): Promise<BaseModel | undefined> {
  if (!/^[0-9a-f]{64}$/.test(sha256)) return undefined;
  const folder = resolve(cacheFolder, sha256);
  const weightsFile = join(folder, weightsName);
  try {
    const index = indexSchema.parse(JSON.parse(await readFile(join(folder, indexName), "utf8")));
    if ((await stat(weightsFile)).size !== index.sizeBytes) return undefined;
    const model = indexedModel(config, index, weightsFile);
    return model?.sha256 === sha256 ? model : undefined;
  } catch {
    return undefined;
  }
}

/** Streams a model's tensors into the cache and gives the cached model. On failure nothing is left behind. */
export async function cacheModel(
  config: ModelConfig,
  readTensor: TensorReader,
  cacheFolder: string,
): Promise<BaseModel> {
  const building = join(cacheFolder, `${buildingPrefix}${randomBytes(8).toString("hex")}`);
  try {
    await mkdir(building, { recursive: true });
    const index = await writeWeights(building, config, readTensor);
    await removeAbandoned(cacheFolder, building);
    const sha256 = modelSha256(config, index.tensors);
    const folder = resolve(cacheFolder, sha256);
    await publish(building, folder, () => findCachedModel(config, sha256, cacheFolder));
    return indexedModel(config, index, join(folder, weightsName)) as BaseModel;
  } catch (cause) {
    throw writeFault(cause, cacheFolder);
  } finally {
    await rm(building, { recursive: true, force: true });
  }
}

const buildingPrefix = ".building-";
/** Renames `building` to `folder`; a sound folder that is there stays, a broken one is moved out of the way. */
async function publish(
  building: string,
  folder: string,
  findSound: () => Promise<BaseModel | undefined>,
): Promise<void> {
  await syncFolder(building);
  // Each turn loses only to another process that published or moved the folder meanwhile.
  for (let turn = 0; turn < 10; turn++) {
    if ((await findSound()) !== undefined) return;
    try {
      await rename(building, folder);
      await syncFolder(join(folder, ".."));
      return;
    } catch (cause) {
      if (!isCode(cause, "ENOTEMPTY", "EEXIST", "EPERM") || turn === 9) throw cause;
    }
    await moveAway(folder);
  }
}

/** Moved before it is removed, so that no process finds half a folder; open maps keep their bytes. */
async function moveAway(folder: string): Promise<void> {
  const away = `${join(folder, "..", buildingPrefix)}${randomBytes(8).toString("hex")}`;
  try {
    await rename(folder, away);
  } catch (cause) {
    if (isCode(cause, "ENOENT")) return;
    throw cause;
  }
  await rm(away, { recursive: true, force: true });
}

/** No process lets this much time pass between two tensors. */
const abandonedMs = 3_600_000;

/** Removes what killed processes left. Compares file times with each other: a board's clock may be wrong. */
async function removeAbandoned(cacheFolder: string, building: string): Promise<void> {
  const now = await changedAtMs(building);
  for (const name of await readdir(cacheFolder)) {
    const folder = join(cacheFolder, name);
    if (!name.startsWith(buildingPrefix) || now - (await changedAtMs(folder)) < abandonedMs)
      continue;
    await rm(folder, { recursive: true, force: true });
  }
}

/** When a folder under construction last grew; never, for one that vanished meanwhile. */
async function changedAtMs(folder: string): Promise<number> {
  for (const path of [join(folder, weightsName), folder]) {
    try {
      return (await stat(path)).mtimeMs;
    } catch (cause) {
      if (!isCode(cause, "ENOENT")) throw cause;
    }
  }
  return Number.POSITIVE_INFINITY;
}

function isCode(cause: unknown, ...codes: readonly string[]): boolean {
  return cause instanceof Error && "code" in cause && codes.includes(String(cause.code));
}
