// A model's weights as sessions map them: a folder with `weights.f32`, little-endian float32 tensors, and an
// `index.json` that says where they lie and what they hash to. The cache and imported models have this layout.
import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import { writeFileAtomic, writeSynced } from "../files.ts";
import { elementCount, sameShape } from "../tensor.ts";
import type { BaseModel } from "./base-model.ts";
import type { ModelConfig } from "./config.ts";
import { tensorShapes } from "./families.ts";

/** Gives the checked values of a tensor in order; called once a name, in name order. */
export type TensorReader = (name: string) => AsyncIterable<Float32Array>;

/** How far the writing of a weights file is. */
export interface WeightsProgress {
  /** Finished ones. */
  readonly tensors: number;
  readonly totalTensors: number;
  readonly bytes: number;
  readonly totalBytes: number;
}

/** What the writing of a weights file may be given. */
export interface WeightsWriting {
  /** Stops before the next chunk, with its reason. */
  readonly signal?: AbortSignal;
  /** Called after every chunk and every tensor. */
  readonly onProgress?: (progress: WeightsProgress) => void;
}

/** Name of the file of tensors in its folder. */
export const weightsName = "weights.f32";
/** Name of the file that describes it. */
export const indexName = "index.json";

const whole = z.int().nonnegative();

/** Schema of `index.json`. */
export const indexSchema = z.object({
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

/** What lies where in a weights file. */
export type WeightsIndex = z.infer<typeof indexSchema>;

/**
 * Streams a model's tensors into `weights.f32` and writes `index.json`; both are on the disk when it returns. Holds
 * one chunk in memory. Throws `MODEL_TENSOR_SHAPE` when a reader gives another number of values than the tensor has,
 * `WEIGHTS_WRITE_FAILED` naming the tensor when the disk takes no more.
 */
export async function writeWeights(
  folder: string,
  config: ModelConfig,
  readTensor: TensorReader,
  writing: WeightsWriting = {},
): Promise<WeightsIndex> {
  const file = join(folder, weightsName);
  const shapes = [...tensorShapes(config)].sort(byName);
  const totalBytes = 4 * shapes.reduce((sum, [, shape]) => sum + elementCount(shape), 0);
  const tensors: WeightsIndex["tensors"] = {};
  let current = "";
  let bytes = 0;
  let sizeBytes = 0;
  const report = () => {
    const counts = { tensors: Object.keys(tensors).length, totalTensors: shapes.length };
    writing.onProgress?.({ ...counts, bytes, totalBytes });
  };
  try {
    await writeSynced(file, async (handle) => {
      for (const [name, shape] of shapes) {
        current = `tensor ${name}`;
        const offsetBytes = Math.ceil(sizeBytes / alignmentBytes) * alignmentBytes;
        await handle.writeFile(new Uint8Array(offsetBytes - sizeBytes));
        const end = bytes + 4 * elementCount(shape);
        const entry = await appendTensor(handle, readTensor(name), (lengthBytes) => {
          bytes += lengthBytes;
          if (bytes < end) report();
          writing.signal?.throwIfAborted();
        });
        checkLength(name, shape, entry.lengthBytes);
        tensors[name] = { shape: [...shape], offsetBytes, ...entry };
        sizeBytes = offsetBytes + entry.lengthBytes;
        report();
      }
    });
    const index: WeightsIndex = { format: 1, sizeBytes, tensors };
    current = indexName;
    await writeFileAtomic(join(folder, indexName), `${JSON.stringify(index, undefined, 1)}\n`);
    return index;
  } catch (cause) {
    throw writeFault(cause, `${file}: ${current} (${bytes} of ${totalBytes} bytes were written)`);
  }
}

/** The model of an index, or nothing when the index does not fit the configuration. */
export function indexedModel(
  config: ModelConfig,
  index: WeightsIndex,
  weightsFile: string,
): BaseModel | undefined {
  const isWhole = [...tensorShapes(config)].every(([name, shape]) => {
    const { offsetBytes = 0, lengthBytes = -1, shape: stored = [] } = index.tensors[name] ?? {};
    const isInside = offsetBytes + lengthBytes <= index.sizeBytes;
    return isInside && lengthBytes === 4 * elementCount(shape) && sameShape(shape, stored);
  });
  if (!isWhole) return undefined;
  const weights = new Map(
    Object.entries(index.tensors).map(([name, { shape, offsetBytes, lengthBytes }]) => [
      name,
      { shape, offsetBytes, lengthBytes },
    ]),
  );
  return { config, weightsFile, weights, sha256: modelSha256(config, index.tensors) };
}

/** sha256 over the canonical configuration and each tensor's own sha256, in name order. */
export function modelSha256(
  config: ModelConfig,
  tensors: Readonly<Record<string, { readonly sha256: string }>>,
): string {
  const hash = createHash("sha256");
  const inOrder = (_: string, part: unknown): unknown =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(byName))
      : part;
  hash.update(JSON.stringify(Object.entries(config).sort(byName), inOrder));
  for (const [name, { sha256 }] of Object.entries(tensors).sort(byName)) {
    hash.update(`\n${name} ${sha256}`);
  }
  return hash.digest("hex");
}

/** `WEIGHTS_WRITE_FAILED` for what `where` names, if the cause is a fault of writing; other causes come back as they are. */
export function writeFault(cause: unknown, where: string): unknown {
  const isWriting =
    cause instanceof Error &&
    "syscall" in cause &&
    ["write", "fsync", "open", "mkdir", "rename", "rmdir", "copyfile"].includes(
      String(cause.syscall),
    );
  if (!isWriting) return cause;
  return runtimeErrors.error("WEIGHTS_WRITE_FAILED", `cannot write ${where}`, {
    cause,
    hint: "Free some space, or choose a folder on another disk (TRIFOLD_CACHE, --out).",
  });
}

/** Mapped files start tensors on a memory page; 4 KiB pages are the smallest of our boards. */
const alignmentBytes = 4096;

async function appendTensor(
  handle: FileHandle,
  chunks: AsyncIterable<Float32Array>,
  onChunk: (lengthBytes: number) => void,
): Promise<{ readonly lengthBytes: number; readonly sha256: string }> {
  const hash = createHash("sha256");
  let lengthBytes = 0;
  for await (const chunk of chunks) {
    const bytes = new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    hash.update(bytes);
    await handle.writeFile(bytes);
    lengthBytes += bytes.length;
    onChunk(bytes.length);
  }
  return { lengthBytes, sha256: hash.digest("hex") };
}

function checkLength(name: string, shape: readonly number[], lengthBytes: number): void {
  if (lengthBytes === 4 * elementCount(shape)) return;
  throw runtimeErrors.error(
    "MODEL_TENSOR_SHAPE",
    `tensor ${name} gave ${lengthBytes / 4} values, its shape [${shape.join(", ")}] takes ${elementCount(shape)}`,
  );
}

function byName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1;
}
