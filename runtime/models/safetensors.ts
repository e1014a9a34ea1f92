// The safetensors format (https://github.com/huggingface/safetensors#format): 8 bytes of header length,
// a JSON header, then the tensors' bytes without gaps. Files are foreign: every bound is checked before
// anything of its size is allocated. Little-endian hosts only, as all that we run on are.
import { type FileHandle, open } from "node:fs/promises";
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import { replaceFile } from "../files.ts";
import {
  elementCount,
  type Float32Tensor,
  float32,
  type Int64Tensor,
  int64,
  type TensorBundle,
} from "../tensor.ts";
import { decodeBfloat16, decodeFloat16, encodeFloat16 } from "./half-floats.ts";

/** Where one tensor lies in a safetensors file, and as what. */
export interface SafetensorsEntry {
  /** The format's name of the element type, such as `F32`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** An opened safetensors file: its header, and its tensors on demand. */
export interface SafetensorsFile {
  readonly file: string;
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  /** One tensor: F32, F16 and BF16 as float32, I64 as int64; others throw `MODEL_TENSOR_INVALID`. */
  readTensor(name: string): Promise<Float32Tensor | Int64Tensor>;
  /** Like `readTensor`, for a tensor that must be of floating point. */
  readFloat32(name: string): Promise<Float32Tensor>;
}

/** How a safetensors file is written. */
export interface SafetensorsOptions {
  readonly metadata?: Readonly<Record<string, string>>;
  /** Stores float32 tensors as F16, rounded to nearest; values beyond its range are refused. */
  readonly float16?: boolean;
}

/** Reads the header of a safetensors file; tensors are read when asked for. Throws `MODEL_FOLDER_INVALID` or `MODEL_FILE_TRUNCATED`. */
export async function readSafetensors(file: string): Promise<SafetensorsFile> {
  const { header, dataStart, sizeBytes } = await withFile(file, readHeader);
  const { metadata, entries } = parseHeader(file, header);
  const tensors = new Map<string, SafetensorsEntry>();
  for (const [name, entry] of entries) {
    tensors.set(name, locate(file, name, entry, dataStart));
  }
  checkLayout(file, tensors, dataStart, sizeBytes);
  const readTensor = (name: string) => readEntry(file, name, tensors);
  const readFloat32 = async (name: string): Promise<Float32Tensor> => {
    const tensor = await readTensor(name);
    if (tensor.dtype === "float32") return tensor;
    throw runtimeErrors.error(
      "MODEL_TENSOR_INVALID",
      `${file}: tensor ${name} is of type ${tensor.dtype}, expected floating point`,
    );
  };
  return { file, tensors, metadata, readTensor, readFloat32 };
}

/** Writes tensors in name order, replacing the file as a whole; equal tensors and options give equal bytes. */
export async function writeSafetensors(
  file: string,
  tensors: TensorBundle<Float32Tensor | Int64Tensor>,
  { metadata = {}, float16 = false }: SafetensorsOptions = {},
): Promise<void> {
  const names = [...tensors.keys()].sort();
  const head = encodeHeader(names, tensors, metadata, float16);
  await replaceFile(file, async (handle) => {
    await handle.writeFile(head);
    for (const name of names) {
      const tensor = tensors.get(name) as Float32Tensor | Int64Tensor;
      await handle.writeFile(tensorBytes(file, name, tensor, float16));
    }
  });
}

/** Element sizes of the format's types; types of less than a byte are not read. */
const elementBytes: Readonly<Record<string, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
};

/** The format's own limit on the header. */
const maximumHeaderBytes = 100_000_000;

const entrySchema = z.object({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()).max(16),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
});
const metadataSchema = z.record(z.string(), z.string());

function encodeHeader(
  names: readonly string[],
  tensors: TensorBundle<Float32Tensor | Int64Tensor>,
  metadata: Readonly<Record<string, string>>,
  float16: boolean,
): Buffer {
  // A map, because a tensor may be called `__proto__`.
  const header = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) header.set("__metadata__", sorted(metadata));
  let end = 0;
  for (const name of names) {
    const tensor = tensors.get(name) as Float32Tensor | Int64Tensor;
    const dtype = tensor.dtype === "int64" ? "I64" : float16 ? "F16" : "F32";
    const start = end;
    end += elementCount(tensor.shape) * (elementBytes[dtype] as number);
    header.set(name, { dtype, shape: tensor.shape, data_offsets: [start, end] });
  }
  const text = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  // Padded with blanks so that the tensors start on a multiple of 8 bytes.
  const head = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, " ");
  head.writeBigUInt64LE(BigInt(head.length - 8));
  text.copy(head, 8);
  return head;
}

async function withFile<T>(file: string, use: (handle: FileHandle, file: string) => Promise<T>) {
  let handle: FileHandle;
  try {
    handle = await open(file, "r");
  } catch (cause) {
    throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${file} cannot be opened`, {
      cause,
      hint: "Check that the path exists and may be read.",
    });
  }
  try {
    return await use(handle, file);
  } finally {
    await handle.close();
  }
}

async function readHeader(handle: FileHandle, file: string) {
  const { size: sizeBytes } = await handle.stat();
  if (sizeBytes < 8) {
    throw truncated(file, `holds ${sizeBytes} bytes, fewer than the 8 of its header length`);
  }
  const lengthBytes = Number((await readBytes(handle, file, 0, 8)).readBigUInt64LE());
  if (lengthBytes > maximumHeaderBytes) {
    throw invalid(file, `declares a header of ${lengthBytes} bytes, allowed ${maximumHeaderBytes}`);
  }
  const dataStart = 8 + lengthBytes;
  if (dataStart > sizeBytes) {
    throw truncated(file, `holds ${sizeBytes} bytes, its header alone takes ${dataStart}`);
  }
  return { header: await readBytes(handle, file, 8, lengthBytes), dataStart, sizeBytes };
}

function parseHeader(file: string, bytes: Buffer) {
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    throw invalid(file, "has a header that is not JSON", cause);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw invalid(file, "has a header that is not a JSON object");
  }
  const { __metadata__: rawMetadata = {}, ...entries } = json as Record<string, unknown>;
  const metadata = metadataSchema.safeParse(rawMetadata);
  if (!metadata.success) throw invalid(file, "has metadata that is not text by name");
  return { metadata: metadata.data, entries: Object.entries(entries) };
}

function locate(file: string, name: string, raw: unknown, dataStart: number): SafetensorsEntry {
  const parsed = entrySchema.safeParse(raw);
  if (!parsed.success) {
    throw invalid(file, `describes tensor ${name} without a valid dtype, shape and data_offsets`);
  }
  const { dtype, shape, data_offsets: offsets } = parsed.data;
  const [start, end] = offsets;
  const size = elementBytes[dtype];
  if (end < start) throw invalid(file, `ends tensor ${name} at byte ${end}, before its start`);
  if (size !== undefined && elementCount(shape) * size !== end - start) {
    throw invalid(
      file,
      `gives tensor ${name} ${end - start} bytes, ${dtype} [${shape}] takes ${elementCount(shape) * size}`,
    );
  }
  return { dtype, shape, offsetBytes: dataStart + start, lengthBytes: end - start };
}

/** The format demands that tensors follow each other without overlap or gap and fill the file. */
function checkLayout(
  file: string,
  tensors: ReadonlyMap<string, SafetensorsEntry>,
  dataStart: number,
  sizeBytes: number,
): void {
  const byOffset = [...tensors].sort(
    ([, a], [, b]) => a.offsetBytes - b.offsetBytes || a.lengthBytes - b.lengthBytes,
  );
  let end = dataStart;
  for (const [name, { offsetBytes, lengthBytes }] of byOffset) {
    if (offsetBytes + lengthBytes > sizeBytes) {
      throw truncated(
        file,
        `holds ${sizeBytes} bytes, tensor ${name} ends at ${offsetBytes + lengthBytes}`,
      );
    }
    if (offsetBytes !== end) {
      const fault = offsetBytes < end ? "overlaps the tensor before it" : "leaves a gap before it";
      throw invalid(file, `has a tensor ${name} that ${fault}`);
    }
    end = offsetBytes + lengthBytes;
  }
  if (end !== sizeBytes) throw invalid(file, `has ${sizeBytes - end} bytes behind its last tensor`);
}

async function readEntry(
  file: string,
  name: string,
  tensors: ReadonlyMap<string, SafetensorsEntry>,
): Promise<Float32Tensor | Int64Tensor> {
  const entry = tensors.get(name);
  if (entry === undefined) {
    const known = [...tensors.keys()].slice(0, 20).join(", ");
    throw runtimeErrors.error(
      "MODEL_TENSOR_MISSING",
      `${file} has no tensor ${name}; it has ${known}`,
    );
  }
  const decode = decoders[entry.dtype];
  if (decode === undefined) {
    throw runtimeErrors.error(
      "MODEL_TENSOR_INVALID",
      `${file}: tensor ${name} is of type ${entry.dtype}, expected one of ${Object.keys(decoders).join(", ")}`,
      { hint: "Convert the tensor to float32 or float16." },
    );
  }
  const bytes = await withFile(file, (handle) =>
    readBytes(handle, file, entry.offsetBytes, entry.lengthBytes),
  );
  return decode(entry.shape, bytes.buffer);
}

/** A table over the types that we compute with; `bytes` holds the tensor and nothing else. */
const decoders: Readonly<
  Record<string, (shape: readonly number[], bytes: ArrayBuffer) => Float32Tensor | Int64Tensor>
> = {
  F32: (shape, bytes) => float32(shape, new Float32Array(bytes)),
  F16: (shape, bytes) => float32(shape, decodeFloat16(new Uint16Array(bytes))),
  BF16: (shape, bytes) => float32(shape, decodeBfloat16(new Uint16Array(bytes))),
  I64: (shape, bytes) => int64(shape, new BigInt64Array(bytes)),
};

/** One read call takes at most 2 GiB. */
const maximumReadBytes = 2 ** 30;

async function readBytes(handle: FileHandle, file: string, offset: number, length: number) {
  const bytes = Buffer.from(new ArrayBuffer(length));
  let done = 0;
  while (done < length) {
    const want = Math.min(length - done, maximumReadBytes);
    const { bytesRead } = await handle.read(bytes, done, want, offset + done);
    if (bytesRead === 0) throw truncated(file, `ends at byte ${offset + done} while it is read`);
    done += bytesRead;
  }
  return bytes;
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

function sorted(metadata: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function invalid(file: string, fault: string, cause?: unknown) {
  return runtimeErrors.error("MODEL_FOLDER_INVALID", `${file} ${fault}`, {
    cause,
    hint: "The file is not a sound safetensors file; fetch or export it again.",
  });
}

function truncated(file: string, fault: string) {
  return runtimeErrors.error("MODEL_FILE_TRUNCATED", `${file} is cut off: it ${fault}`, {
    hint: "Copy or download the file again.",
  });
}
