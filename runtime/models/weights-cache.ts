// The cache of base models: `<cache>/<sha256>/weights.f32`, float32 tensors that sessions map, and an
// `index.json` that says where they lie. A folder appears as a whole by a rename and is never rewritten,
// so processes may build the same model at once: the first rename wins and the others take its folder.
import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { z } from "zod";
import { syncFolder, writeFileAtomic, writeSynced } from "../files.ts";
import { elementCount, type Float32Tensor, sameShape } from "../tensor.ts";
import type { BaseModel } from "./base-model.ts";
import type { ModelConfig } from "./config.ts";
import { tensorShapes } from "./families.ts";

/** Gives the checked tensor of a name; called once a name, in name order. */
export type TensorReader = (name: string) => Promise<Float32Tensor>;

/** The cached model of that hash, or nothing when the cache has none that is sound. */
export async function findCachedModel(
  config: ModelConfig,
  sha256: string,
  cacheFolder: string,
): Promise<BaseModel | undefined> {
  if (!/^[0-9a-f]{64}$/.test(sha256)) return undefined;
  const folder = resolve(cacheFolder, sha256);
  const weightsFile = join(folder, weightsName);
  let index: WeightsIndex;
  try {
    index = indexSchema.parse(JSON.parse(await readFile(join(folder, indexName), "utf8")));
    if ((await stat(weightsFile)).size !== index.sizeBytes) return undefined;
  } catch {
    return undefined;
  }
  if (modelSha256(config, index.tensors) !== sha256) return undefined;
  const shapes = tensorShapes(config);
  const isWhole = [...shapes].every(([name, shape]) => {
    const { offsetBytes = 0, lengthBytes = -1, shape: stored = [] } = index.tensors[name] ?? {};
    const isInside = offsetBytes + lengthBytes <= index.sizeBytes;
    return isInside && lengthBytes === 4 * elementCount(shape) && sameShape(shape, stored);
  });
  return isWhole ? { config, weightsFile, sha256, weights: locations(index) } : undefined;
}

/** Streams a model's tensors into the cache, one in memory at a time, and gives the cached model. */
export async function cacheModel(
  config: ModelConfig,
  readTensor: TensorReader,
  cacheFolder: string,
): Promise<BaseModel> {
  await mkdir(cacheFolder, { recursive: true });
  const building = join(cacheFolder, `${buildingPrefix}${randomBytes(8).toString("hex")}`);
  await mkdir(building);
  try {
    const index = await writeWeights(building, config, readTensor);
    await removeAbandoned(cacheFolder, building);
    const sha256 = modelSha256(config, index.tensors);
    await writeFileAtomic(join(building, indexName), `${JSON.stringify(index, undefined, 1)}\n`);
    await publish(building, join(cacheFolder, sha256), () =>
      findCachedModel(config, sha256, cacheFolder),
    );
    const weightsFile = resolve(cacheFolder, sha256, weightsName);
    return { config, weightsFile, sha256, weights: locations(index) };
  } finally {
    await rm(building, { recursive: true, force: true });
  }
}

/** sha256 of a tensor's little-endian float32 bytes, in hex. */
export function tensorSha256({ data }: Float32Tensor): string {
  return createHash("sha256").update(bytesOf(data)).digest("hex");
}

/** sha256 over the canonical configuration and each tensor's own sha256, in name order. */
export function modelSha256(
  config: ModelConfig,
  tensors: Readonly<Record<string, { readonly sha256: string }>>,
): string {
  const hash = createHash("sha256");
  hash.update(JSON.stringify(Object.entries(config).sort(byName)));
  for (const [name, { sha256 }] of Object.entries(tensors).sort(byName)) {
    hash.update(`\n${name} ${sha256}`);
  }
  return hash.digest("hex");
}

const weightsName = "weights.f32";
const indexName = "index.json";
const buildingPrefix = ".building-";

/** Mapped files start tensors on a memory page; 4 KiB pages are the smallest of our boards. */
const alignmentBytes = 4096;

const whole = z.int().nonnegative();
const indexSchema = z.object({
  format: z.literal(1),
  sizeBytes: whole,
  tensors: z.record(
    z.string(),
    z.object({
      shape: z.array(whole),
      offsetBytes: whole,
      lengthBytes: whole,
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
    }),
  ),
});
type WeightsIndex = z.infer<typeof indexSchema>;

async function writeWeights(
  folder: string,
  config: ModelConfig,
  readTensor: TensorReader,
): Promise<WeightsIndex> {
  const tensors: WeightsIndex["tensors"] = {};
  let end = 0;
  await writeSynced(join(folder, weightsName), async (file) => {
    for (const name of [...tensorShapes(config).keys()].sort()) {
      const tensor = await readTensor(name);
      const bytes = bytesOf(tensor.data);
      const offsetBytes = Math.ceil(end / alignmentBytes) * alignmentBytes;
      await file.writeFile(new Uint8Array(offsetBytes - end));
      await file.writeFile(bytes);
      end = offsetBytes + bytes.length;
      const sha256 = tensorSha256(tensor);
      tensors[name] = { shape: [...tensor.shape], offsetBytes, lengthBytes: bytes.length, sha256 };
    }
  });
  return { format: 1, sizeBytes: end, tensors };
}

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

function locations(index: WeightsIndex): BaseModel["weights"] {
  return new Map(
    Object.entries(index.tensors).map(([name, { shape, offsetBytes, lengthBytes }]) => [
      name,
      { shape, offsetBytes, lengthBytes },
    ]),
  );
}

function bytesOf(data: Float32Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function byName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1;
}

function isCode(cause: unknown, ...codes: readonly string[]): boolean {
  return cause instanceof Error && "code" in cause && codes.includes(String(cause.code));
}
