// Tensors by their own sha256: what a model consists of, and models whose tensors lie each in a file of that name, so that
// a model may be there in part and models share what they have in common.
import { readFile, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { runtimeErrors } from "../errors.ts";
import type { Graph } from "../graph/ir.ts";
import { elementCount } from "../tensor.ts";
import type { BaseModel, WeightLocation } from "./base-model.ts";
import type { ModelConfig } from "./config.ts";
import { tensorShapes } from "./families.ts";
import { indexName, indexSchema, modelSha256 } from "./weights-file.ts";

/** sha256 of each tensor of a model that was opened whole, from the index beside its weights. Throws `MODEL_FOLDER_INVALID`. */
export async function tensorHashes(model: BaseModel): Promise<ReadonlyMap<string, string>> {
  const file = join(dirname(model.weightsFile), indexName);
  const { tensors } = indexSchema.parse(JSON.parse(await readFile(file, "utf8")));
  const hashes = new Map(Object.entries(tensors).map(([name, { sha256 }]) => [name, sha256]));
  if (hashOf(model.config, hashes) === model.sha256) return hashes;
  throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${file} is not that of the opened model`);
}

/** Bytes of each tensor of a model, as float32. */
export function tensorBytes(config: ModelConfig): ReadonlyMap<string, number> {
  return new Map([...tensorShapes(config)].map(([name, shape]) => [name, 4 * elementCount(shape)]));
}

/**
 * The part of a model that lies in `folder`, a file named by its sha256 for each tensor; undefined unless `hashes` are
 * those of the model's tensors, exactly. Files of the right size are trusted: who wrote them has hashed them.
 */
export async function openTensorFiles(
  { config, sha256 }: Pick<BaseModel, "config" | "sha256">,
  hashes: ReadonlyMap<string, string>,
  folder: string,
): Promise<BaseModel | undefined> {
  const shapes = tensorShapes(config);
  const isSame =
    hashes.size === shapes.size && [...shapes.keys()].every((name) => hashes.has(name));
  if (!isSame || hashOf(config, hashes) !== sha256) return undefined;
  const weights = new Map<string, WeightLocation>();
  for (const [name, shape] of shapes) {
    const file = resolve(folder, hashes.get(name) as string);
    const lengthBytes = 4 * elementCount(shape);
    const isThere = (await sizeOf(file)) === lengthBytes;
    if (isThere) weights.set(name, { shape, file, offsetBytes: 0, lengthBytes });
  }
  return { config, weightsFile: resolve(folder, `${sha256}.f32`), weights, sha256 };
}

/** Names of the tensors that graphs of the model read. */
export function tensorsOfGraphs(graphs: readonly Graph[]): ReadonlySet<string> {
  const names = new Set<string>();
  for (const { initializers } of graphs) {
    for (const { kind, value } of initializers) {
      // Some rows of a table are named `table[from:to]`.
      if (kind === "external") names.add(value.name.replace(/\[\d+:\d+\]$/, ""));
    }
  }
  return names;
}

function hashOf(config: ModelConfig, hashes: ReadonlyMap<string, string>): string {
  const entries = [...hashes].map(([name, sha256]) => [name, { sha256 }] as const);
  return modelSha256(config, Object.fromEntries(entries));
}

async function sizeOf(file: string): Promise<number | undefined> {
  return await stat(file).then(
    ({ size }) => size,
    () => undefined,
  );
}
