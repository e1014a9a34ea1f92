// Writing safetensors files: the header that says where each tensor lies, then the tensors one after another.
import { runtimeErrors } from "../errors.ts";
import { replaceFile } from "../files.ts";
import {
  elementCount,
  type Float32Tensor,
  type Int64Tensor,
  type TensorBundle,
} from "../tensor.ts";
import { encodeFloat16 } from "./half-floats.ts";
import { encodeHeader, type StoredTensor } from "./safetensors-header.ts";

/** How a safetensors file is written. */
export interface SafetensorsOptions {
  readonly metadata?: Readonly<Record<string, string>>;
  /** Stores float32 tensors as F16, rounded to nearest; values beyond its range are refused. */
  readonly float16?: boolean;
}

/** Writes tensors in name order, replacing the file as a whole; equal tensors and options give equal bytes. */
export async function writeSafetensors(
  file: string,
  tensors: TensorBundle<Float32Tensor | Int64Tensor>,
  { metadata = {}, float16 = false }: SafetensorsOptions = {},
): Promise<void> {
  const entries = [...tensors].map(([name, tensor]) => ({
    name,
    dtype: tensor.dtype === "int64" ? "I64" : float16 ? "F16" : "F32",
    shape: tensor.shape,
    bytes: () => tensorBytes(file, name, tensor, float16),
  }));
  await writeEntries(file, entries, metadata);
}

/** Like `writeSafetensors`, of tensors that are bytes already, as many as their type and shape take. */
export async function writeStoredTensors(
  file: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  { metadata = {} }: Pick<SafetensorsOptions, "metadata"> = {},
): Promise<void> {
  const entries = [...tensors].map(([name, { dtype, shape, bytes }]) => ({
    ...{ name, dtype, shape },
    bytes: () => bytes,
  }));
  await writeEntries(file, entries, metadata);
}

/** A tensor to write; its bytes are made when it is their turn. */
interface WrittenEntry extends Omit<StoredTensor, "bytes"> {
  readonly name: string;
  bytes(): Uint8Array;
}

async function writeEntries(
  file: string,
  entries: WrittenEntry[],
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  const head = encodeHeader(entries, metadata);
  await replaceFile(file, async (handle) => {
    await handle.writeFile(head);
    for (const { bytes } of entries) await handle.writeFile(bytes());
  });
}

function tensorBytes(
  file: string,
  name: string,
  { dtype, shape, data }: Float32Tensor | Int64Tensor,
  float16: boolean,
): Uint8Array {
  if (data.length !== elementCount(shape)) {
    throw runtimeErrors.error(
      "MODEL_TENSOR_SHAPE",
      `${file}: tensor ${name} holds ${data.length} values, its shape [${shape}] takes ${elementCount(shape)}`,
    );
  }
  if (dtype === "int64" || !float16) {
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
  const bits = encodeFloat16(data);
  if (bits.some((pattern) => (pattern & 0x7c00) === 0x7c00)) {
    throw runtimeErrors.error(
      "MODEL_TENSOR_INVALID",
      `${file}: tensor ${name} holds values that float16 cannot (limit 65504)`,
      { hint: "Save it as float32." },
    );
  }
  return new Uint8Array(bits.buffer);
}
