// A model as Hugging Face stores it: a folder with config.json and model.safetensors. Reading checks
// every tensor against the configuration; the cache that sessions map is pretrained.ts's.
import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { runtimeErrors } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { type Float32Tensor, sameShape, type TensorBundle } from "../tensor.ts";
import type { ModelConfig } from "./config.ts";
import { familyOf } from "./families.ts";
import type { ModelFamily } from "./family.ts";
import { parseHuggingFaceConfig, toHuggingFaceConfig } from "./hugging-face-config.ts";
import { readJsonFile } from "./json-file.ts";
import { readSafetensors, type SafetensorsFile, writeSafetensors } from "./safetensors.ts";

/** An opened model folder whose configuration, names and shapes have been checked. */
export interface ModelFolder {
  readonly config: ModelConfig;
  readonly weightsFile: string;
  /** One tensor by its name without the family's prefix; throws `MODEL_TENSOR_INVALID` where a value is not finite. */
  readTensor(name: string): Promise<Float32Tensor>;
  /** Throws `MODEL_UNSUPPORTED` when the folder holds a head that differs from the embedding; reads both. */
  checkTiedHead(): Promise<void>;
}

/** Reads config.json of a model folder. Throws `MODEL_FOLDER_INVALID` or `MODEL_UNSUPPORTED`. */
async function readModelConfig(folder: string): Promise<ModelConfig> {
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
  const weightsFile = join(folder, "model.safetensors");
  const source = await readSafetensors(weightsFile);
  const family = familyOf(config);
  const stored = checkpointNames(source, family);
  const shapes = family.tensorShapes(config);
  for (const [name, shape] of shapes) checkShape(source, stored.get(name), name, shape);
  refuseUnknown(source, { family, stored, shapes });
  return {
    config,
    weightsFile,
    readTensor: (name) => readFinite(source, stored.get(name) ?? name),
    checkTiedHead: async () => {
      if (!shapes.has(headName)) await refuseUntiedHead(source, stored, family);
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

/** Throws `MODEL_TENSOR_INVALID` with the tensor's name and place when a value is NaN or infinite. */
export function checkFinite(tensor: Float32Tensor, where: string): void {
  const at = tensor.data.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  throw runtimeErrors.error(
    "MODEL_TENSOR_INVALID",
    `${where} holds ${tensor.data[at]} at element ${at}`,
    { hint: "The weights are damaged or the training that made them diverged." },
  );
}

/** Identity of the folder's present content by file times and sizes, without reading the weights. */
export async function folderFingerprint(folder: string): Promise<string> {
  const stats = await Promise.all(
    ["config.json", "model.safetensors"].map((name) => stat(join(folder, name), { bigint: true })),
  );
  // The change time is the kernel's and cannot be set back, unlike the modification time.
  return stats.map((s) => [s.dev, s.ino, s.size, s.mtimeNs, s.ctimeNs].join(" ")).join("\n");
}

/** The language-model head, which has no prefix because it is outside the bare model. */
const headName = "lm_head.weight";

/** Stored names by plain name; refuses files that hold a tensor under both. */
function checkpointNames(
  source: SafetensorsFile,
  { prefix }: ModelFamily,
): ReadonlyMap<string, string> {
  const stored = new Map<string, string>();
  for (const name of source.tensors.keys()) {
    const plain = name.startsWith(prefix) ? name.slice(prefix.length) : name;
    if (stored.has(plain)) {
      throw runtimeErrors.error(
        "MODEL_FOLDER_INVALID",
        `${source.file} holds tensor ${plain} both with and without "${prefix}"`,
      );
    }
    stored.set(plain, name);
  }
  return stored;
}

function checkShape(
  source: SafetensorsFile,
  stored: string | undefined,
  name: string,
  expected: readonly number[],
): void {
  const entry = stored === undefined ? undefined : source.tensors.get(stored);
  const hint = "config.json and model.safetensors must belong to the same model.";
  if (entry === undefined) {
    throw runtimeErrors.error(
      "MODEL_TENSOR_MISSING",
      `${source.file} has no tensor ${name}, expected with shape [${expected.join(", ")}]`,
      { hint },
    );
  }
  if (!sameShape(entry.shape, expected)) {
    throw runtimeErrors.error(
      "MODEL_TENSOR_SHAPE",
      `${source.file}: tensor ${stored} has shape [${entry.shape.join(", ")}], expected [${expected.join(", ")}]`,
      { hint },
    );
  }
}

/** A tensor that we do not compute with would change the numbers: extra layers, cross-attention, adapters. */
function refuseUnknown(
  source: SafetensorsFile,
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
      `${source.file}: tensor ${original} is not part of the model that config.json describes`,
      { hint: "config.json and model.safetensors must belong to the same model." },
    );
  }
}

/** The language-model head is the token embedding; a stored copy must be equal to it. */
async function refuseUntiedHead(
  source: SafetensorsFile,
  stored: ReadonlyMap<string, string>,
  { embeddingTensor }: ModelFamily,
): Promise<void> {
  const head = stored.get(headName);
  if (head === undefined) return;
  const [a, b] = [
    await source.readFloat32(head),
    await source.readFloat32(stored.get(embeddingTensor) ?? embeddingTensor),
  ];
  if (sameShape(a.shape, b.shape) && a.data.every((value, i) => Object.is(value, b.data[i])))
    return;
  throw runtimeErrors.error(
    "MODEL_UNSUPPORTED",
    `${source.file}: ${head} differs from ${embeddingTensor}, expected a head tied to the embedding`,
  );
}

async function readFinite(source: SafetensorsFile, stored: string): Promise<Float32Tensor> {
  const tensor = await source.readFloat32(stored);
  checkFinite(tensor, `${source.file}: tensor ${stored}`);
  return tensor;
}
