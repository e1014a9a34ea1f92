// The tensors of a Hugging Face folder: one model.safetensors, or shards that model.safetensors.index.json names.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import { readJsonFile } from "./json-file.ts";
import { readSafetensors, type SafetensorsFile } from "./safetensors.ts";

/** One stored tensor and the file that holds it. */
export interface CheckpointTensor {
  readonly source: SafetensorsFile;
  readonly shape: readonly number[];
}

/** A folder's tensors by the names they are stored under. */
export interface Checkpoint {
  /** What errors name: the only file, or the index. */
  readonly file: string;
  /** Names of every file that the tensors come from, inside the folder. */
  readonly files: readonly string[];
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
}

/** Opens every weights file of a folder and reads their headers. Throws `MODEL_FOLDER_INVALID`, `MODEL_FILE_TRUNCATED` or `MODEL_TENSOR_MISSING`. */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const single = join(folder, singleName);
  const index = join(folder, indexName);
  // As Hugging Face does, the single file first.
  if (existsSync(single) || !existsSync(index)) {
    const source = await readSafetensors(single);
    const tensors = new Map<string, CheckpointTensor>();
    for (const [name, { shape }] of source.tensors) tensors.set(name, { source, shape });
    return { file: single, files: [singleName], tensors };
  }
  return await openShards(folder, index);
}

const singleName = "model.safetensors";
const indexName = "model.safetensors.index.json";
const indexSchema = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

async function openShards(folder: string, index: string): Promise<Checkpoint> {
  const places = await readIndex(index);
  const tensors = new Map<string, CheckpointTensor>();
  const names = [...new Set(places.values())].sort();
  for (const name of names) {
    const source = await readSafetensors(join(folder, name));
    for (const [tensor, { shape }] of source.tensors) {
      if (places.get(tensor) !== name) {
        throw invalidIndex(index, `does not place tensor ${tensor} in ${name}, which holds it`);
      }
      tensors.set(tensor, { source, shape });
    }
  }
  for (const [tensor, name] of places) {
    if (tensors.has(tensor)) continue;
    throw runtimeErrors.error(
      "MODEL_TENSOR_MISSING",
      `${join(folder, name)} has no tensor ${tensor}, ${index} says that it has`,
      { hint: hint },
    );
  }
  return { file: index, files: [indexName, ...names], tensors };
}

/** File name by tensor name. */
async function readIndex(index: string): Promise<ReadonlyMap<string, string>> {
  const json = await readJsonFile(index, { code: "MODEL_FOLDER_INVALID", hint });
  const parsed = indexSchema.safeParse(json);
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
    throw invalidIndex(index, `has no weight_map of file names: ${faults.join("; ")}`);
  }
  const places = new Map(Object.entries(parsed.data.weight_map));
  for (const [tensor, name] of places) {
    // A foreign folder must not make us read files outside of it.
    if (/^[^/\\:]+\.safetensors$/.test(name)) continue;
    const place = JSON.stringify(name).slice(0, 200);
    throw invalidIndex(index, `places tensor ${tensor} in ${place}, expected a file of the folder`);
  }
  if (places.size === 0) throw invalidIndex(index, "lists no tensor");
  return places;
}

const hint = "The folder is incomplete or of two downloads; fetch all of its files again.";

function invalidIndex(index: string, fault: string): Error {
  return runtimeErrors.error("MODEL_FOLDER_INVALID", `${index} ${fault}`, { hint });
}
