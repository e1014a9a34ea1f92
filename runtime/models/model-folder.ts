// A model as Hugging Face stores it: a folder with config.json and safetensors files. Reading checks
// every tensor against the configuration; the float32 file that sessions map is weights-file.ts's.
import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { runtimeErrors } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { type Float32Tensor, sameShape, type TensorBundle } from "../tensor.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import type { ModelConfig } from "./config.ts";
import { familyOf } from "./families.ts";
import type { ModelFamily } from "./family.ts";
import { parseHuggingFaceConfig, toHuggingFaceConfig } from "./hugging-face-config.ts";
import { readJsonFile } from "./json-file.ts";
import { writeSafetensors } from "./safetensors-writer.ts";

/** An opened model folder whose configuration, names and shapes have been checked. */
export interface ModelFolder {
  readonly config: ModelConfig;
  /** Names of the files that the model comes from. */
  readonly files: readonly string[];
  /**
   * One tensor by its name without the family's prefix, in chunks of at most 4 MiB, each overwritten by the next;
   * throws `MODEL_TENSOR_INVALID` where a value is not finite.
   */
  readTensor(name: string): AsyncIterable<Float32Array>;
  /** Throws `MODEL_UNSUPPORTED` when the folder holds a head that differs from the embedding it should be; reads both. */
  checkTiedHead(): Promise<void>;
}

/** Reads config.json of a model folder. Throws `MODEL_FOLDER_INVALID` or `MODEL_UNSUPPORTED`. */
export async function readModelConfig(folder: string): Promise<ModelConfig> {
  const file = join(folder, "config.json");
  const json = await readJsonFile(file, {
    code: "MODEL_FOLDER_INVALID",
    hint: "Give a Hugging Face model folder with config.json and model.safetensors.",
  });
  return parseHuggingFaceConfig(json, file);
}

/** Opens a model folder and checks every tensor's name and shape against its configuration. */
export async function openModelFolder(folder: string): Promise<ModelFolder> {
  const config = await readModelConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const family = familyOf(config);
  const stored = plainNames(checkpoint, family);
  const shapes = family.tensorShapes(config);
  for (const [name, shape] of shapes) checkShape(checkpoint, stored.get(name), name, shape);
  refuseUnknown(checkpoint, { family, stored, shapes });
  return {
    config,
    files: ["config.json", ...checkpoint.files],
    readTensor: (name) => readFinite(checkpoint, stored.get(name) ?? name),
    checkTiedHead: async () => {
      if (!shapes.has(headName)) await refuseUntiedHead(checkpoint, stored, family);
    },
  };
}

/** Writes a model in Hugging Face form; `float16` halves the file and rounds the weights. */
export async function saveModelFolder(
  folder: string,
  config: ModelConfig,
  tensors: TensorBundle<Float32Tensor>,
  { float16 = false }: { readonly float16?: boolean } = {},
): Promise<void> {
  await mkdir(folder, { recursive: true });
  const { prefix } = familyOf(config);
  const named = new Map(
    [...tensors].map(([name, tensor]) => [name === headName ? name : `${prefix}${name}`, tensor]),
  );
  const json = JSON.stringify(toHuggingFaceConfig(config, { float16 }), undefined, 2);
  await writeSafetensors(join(folder, "model.safetensors"), named, {
    // PyTorch's loader refuses files that do not say so.
    metadata: { format: "pt" },
    float16,
  });
  await writeFileAtomic(join(folder, "config.json"), `${json}\n`);
}

/** Throws `MODEL_TENSOR_INVALID` with the tensor's name and place when a value is NaN or infinite; `start` counts the elements before. */
export function checkFinite({ data }: Pick<Float32Tensor, "data">, where: string, start = 0): void {
  // A loop, because this runs over every weight of a model.
  for (let i = 0; i < data.length; i++) {
    if (Number.isFinite(data[i])) continue;
    throw runtimeErrors.error(
      "MODEL_TENSOR_INVALID",
      `${where} holds ${data[i]} at element ${start + i}`,
      { hint: "The weights are damaged or the training that made them diverged." },
    );
  }
}

/** Identity of the present content of a folder's files by their times and sizes, without reading them. */
export async function folderFingerprint(folder: string, files: readonly string[]): Promise<string> {
  const stats = await Promise.all(files.map((name) => stat(join(folder, name), { bigint: true })));
  // The change time is the kernel's and cannot be set back, unlike the modification time.
  return stats.map((s) => [s.dev, s.ino, s.size, s.mtimeNs, s.ctimeNs].join(" ")).join("\n");
}

/** The language-model head, which has no prefix because it is outside the bare model. */
const headName = "lm_head.weight";

/** Stored names by plain name; refuses checkpoints that hold a tensor under both. */
function plainNames(
  { file, tensors }: Checkpoint,
  { prefix }: ModelFamily,
): ReadonlyMap<string, string> {
  const stored = new Map<string, string>();
  for (const name of tensors.keys()) {
    const plain = name.startsWith(prefix) ? name.slice(prefix.length) : name;
    if (stored.has(plain)) {
      throw runtimeErrors.error(
        "MODEL_FOLDER_INVALID",
        `${file} holds tensor ${plain} both with and without "${prefix}"`,
      );
    }
    stored.set(plain, name);
  }
  return stored;
}

const misfitHint = "config.json and the weights must belong to the same model.";

function checkShape(
  { file, tensors }: Checkpoint,
  stored: string | undefined,
  name: string,
  expected: readonly number[],
): void {
  const tensor = stored === undefined ? undefined : tensors.get(stored);
  if (tensor === undefined) {
    throw runtimeErrors.error(
      "MODEL_TENSOR_MISSING",
      `${file} has no tensor ${name}, expected with shape [${expected.join(", ")}]`,
      { hint: misfitHint },
    );
  }
  if (!sameShape(tensor.shape, expected)) {
    throw runtimeErrors.error(
      "MODEL_TENSOR_SHAPE",
      `${tensor.source.file}: tensor ${stored} has shape [${tensor.shape.join(", ")}], expected [${expected.join(", ")}]`,
      { hint: misfitHint },
    );
  }
}

/** A tensor that we do not compute with would change the numbers: extra layers, biases, cross-attention, adapters. */
function refuseUnknown(
  { tensors }: Checkpoint,
  {
    family,
    stored,
    shapes,
  }: {
    readonly family: ModelFamily;
    readonly stored: ReadonlyMap<string, string>;
    readonly shapes: ReadonlyMap<string, unknown>;
  },
): void {
  for (const [name, original] of stored) {
    if (shapes.has(name) || name === headName || family.ignoredTensors.test(name)) continue;
    throw runtimeErrors.error(
      "MODEL_UNSUPPORTED",
      `${tensors.get(original)?.source.file}: tensor ${original} is not part of the model that config.json describes`,
      { hint: misfitHint },
    );
  }
}

/** Where the head is the token embedding, a stored copy must be equal to it. */
async function refuseUntiedHead(
  checkpoint: Checkpoint,
  stored: ReadonlyMap<string, string>,
  { embeddingTensor }: ModelFamily,
): Promise<void> {
  const head = stored.get(headName);
  if (head === undefined) return;
  const embedding = stored.get(embeddingTensor) ?? embeddingTensor;
  const shapes = [head, embedding].map((name) => checkpoint.tensors.get(name)?.shape ?? []);
  const isSame =
    sameShape(shapes[0] ?? [], shapes[1] ?? []) &&
    (await areEqual(readStored(checkpoint, head), readStored(checkpoint, embedding)));
  if (isSame) return;
  throw runtimeErrors.error(
    "MODEL_UNSUPPORTED",
    `${checkpoint.file}: ${head} differs from ${embeddingTensor}, expected a head tied to the embedding`,
  );
}

/** Whether two streams of equally long chunks hold the same values. */
async function areEqual(
  left: AsyncIterable<Float32Array>,
  right: AsyncIterable<Float32Array>,
): Promise<boolean> {
  const others = right[Symbol.asyncIterator]();
  try {
    for await (const chunk of left) {
      const other = (await others.next()).value as Float32Array;
      if (!chunk.every((value, i) => Object.is(value, other[i]))) return false;
    }
    return true;
  } finally {
    await others.return?.();
  }
}

function readStored({ tensors, file }: Checkpoint, stored: string): AsyncIterable<Float32Array> {
  const tensor = tensors.get(stored);
  if (tensor !== undefined) return tensor.source.readChunks(stored);
  throw runtimeErrors.error("MODEL_TENSOR_MISSING", `${file} has no tensor ${stored}`);
}

async function* readFinite(checkpoint: Checkpoint, stored: string): AsyncGenerator<Float32Array> {
  let start = 0;
  for await (const chunk of readStored(checkpoint, stored)) {
    const file = checkpoint.tensors.get(stored)?.source.file;
    checkFinite({ data: chunk }, `${file}: tensor ${stored}`, start);
    start += chunk.length;
    yield chunk;
  }
}
