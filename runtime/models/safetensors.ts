// The safetensors format (https://github.com/huggingface/safetensors#format): 8 bytes of header length,
// a JSON header, then the tensors' bytes without gaps. Files are foreign: every bound is checked before
// anything of its size is allocated. Little-endian hosts only, as all that we run on are.
import { type FileHandle, open } from "node:fs/promises";
import { runtimeErrors } from "../errors.ts";
import { elementCount, type Float32Tensor, float32, type Int64Tensor, int64 } from "../tensor.ts";
import { decodeBfloat16, decodeFloat16 } from "./half-floats.ts";
import {
  invalidFile,
  maximumHeaderBytes,
  parseHeader,
  type SafetensorsEntry,
  type SafetensorsHeader,
  type StoredTensor,
  truncatedFile,
} from "./safetensors-header.ts";

/** An opened safetensors file: its header, and its tensors on demand. */
export interface SafetensorsFile extends SafetensorsHeader {
  readonly file: string;
  /** One tensor: F32, F16 and BF16 as float32, I64 as int64; others throw `MODEL_TENSOR_INVALID`. */
  readTensor(name: string): Promise<Float32Tensor | Int64Tensor>;
  /** Like `readTensor`, for a tensor that must be of floating point. */
  readFloat32(name: string): Promise<Float32Tensor>;
  /**
   * The elements of such a tensor in order, at most `chunkElements` at a time, so that memory does not grow with
   * the tensor. A chunk is overwritten when the next one is asked for.
   */
  readChunks(name: string): AsyncIterable<Float32Array>;
  /** A tensor of any type as it lies in the file. */
  readStored(name: string): Promise<StoredTensor>;
}

/** Elements of a chunk: 4 MiB of float32. */
const chunkElements = 2 ** 20;

/** Reads the header of a safetensors file; tensors are read when asked for. Throws `MODEL_FOLDER_INVALID` or `MODEL_FILE_TRUNCATED`. */
export async function readSafetensors(file: string): Promise<SafetensorsFile> {
  const { metadata, tensors } = await withFile(file, readHeader);
  const readTensor = (name: string) => readEntry(file, name, tensors);
  const readFloat32 = async (name: string): Promise<Float32Tensor> => {
    const tensor = await readTensor(name);
    if (tensor.dtype === "float32") return tensor;
    throw notFloating(file, name, tensor.dtype);
  };
  const readChunks = (name: string) => readEntryChunks(file, name, tensors);
  const readStored = (name: string) => readEntryBytes(file, name, tensors);
  return { file, tensors, metadata, readTensor, readFloat32, readChunks, readStored };
}

/** Every tensor of a file, all of floating point, in the file's order. */
export async function readParameterFile(file: string): Promise<Map<string, Float32Tensor>> {
  const opened = await readSafetensors(file);
  const tensors = new Map<string, Float32Tensor>();
  for (const name of opened.tensors.keys()) tensors.set(name, await opened.readFloat32(name));
  return tensors;
}

async function openFile(file: string): Promise<FileHandle> {
  try {
    return await open(file, "r");
  } catch (cause) {
    throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${file} cannot be opened`, {
      cause,
      hint: "Check that the path exists and may be read.",
    });
  }
}

async function withFile<T>(file: string, use: (handle: FileHandle, file: string) => Promise<T>) {
  const handle = await openFile(file);
  try {
    return await use(handle, file);
  } finally {
    await handle.close();
  }
}

async function readHeader(handle: FileHandle, file: string): Promise<SafetensorsHeader> {
  const { size: sizeBytes } = await handle.stat();
  if (sizeBytes < 8) {
    throw truncatedFile(file, `holds ${sizeBytes} bytes, fewer than the 8 of its header length`);
  }
  const lengthBytes = Number((await readBytes(handle, file, 0, 8)).readBigUInt64LE());
  if (lengthBytes > maximumHeaderBytes) {
    throw invalidFile(
      file,
      `declares a header of ${lengthBytes} bytes, allowed ${maximumHeaderBytes}`,
    );
  }
  const dataStart = 8 + lengthBytes;
  if (dataStart > sizeBytes) {
    throw truncatedFile(file, `holds ${sizeBytes} bytes, its header alone takes ${dataStart}`);
  }
  return parseHeader(file, await readBytes(handle, file, 8, lengthBytes), sizeBytes);
}

type Entries = ReadonlyMap<string, SafetensorsEntry>;

async function readEntry(
  file: string,
  name: string,
  tensors: Entries,
): Promise<Float32Tensor | Int64Tensor> {
  const { entry, decode } = findDecoder(file, name, tensors);
  const data = decode(await bytesOf(file, entry));
  return data instanceof Float32Array ? float32(entry.shape, data) : int64(entry.shape, data);
}

async function readEntryBytes(file: string, name: string, tensors: Entries): Promise<StoredTensor> {
  const entry = findEntry(file, name, tensors);
  const { dtype, shape } = entry;
  return { dtype, shape, bytes: new Uint8Array(await bytesOf(file, entry)) };
}

async function bytesOf(file: string, entry: SafetensorsEntry): Promise<ArrayBuffer> {
  const bytes = new ArrayBuffer(entry.lengthBytes);
  await withFile(file, (handle) => readInto(handle, file, bytes, entry));
  return bytes;
}

async function* readEntryChunks(
  file: string,
  name: string,
  tensors: Entries,
): AsyncGenerator<Float32Array> {
  const { entry, decode } = findDecoder(file, name, tensors);
  const elements = elementCount(entry.shape);
  const elementBytes = entry.lengthBytes / Math.max(1, elements);
  const buffer = new ArrayBuffer(elementBytes * Math.min(chunkElements, elements));
  const handle = await openFile(file);
  try {
    for (let start = 0; start < elements; start += chunkElements) {
      const lengthBytes = elementBytes * Math.min(chunkElements, elements - start);
      // Only the last chunk is shorter.
      const bytes = lengthBytes === buffer.byteLength ? buffer : new ArrayBuffer(lengthBytes);
      const offsetBytes = entry.offsetBytes + start * elementBytes;
      await readInto(handle, file, bytes, { offsetBytes, lengthBytes });
      const chunk = decode(bytes);
      if (!(chunk instanceof Float32Array)) throw notFloating(file, name, "int64");
      yield chunk;
    }
  } finally {
    await handle.close();
  }
}

function findEntry(file: string, name: string, tensors: Entries): SafetensorsEntry {
  const entry = tensors.get(name);
  if (entry) return entry;
  const known = [...tensors.keys()].slice(0, 20).join(", ");
  throw runtimeErrors.error(
    "MODEL_TENSOR_MISSING",
    `${file} has no tensor ${name}; it has ${known}`,
  );
}

function findDecoder(file: string, name: string, tensors: Entries) {
  const entry = findEntry(file, name, tensors);
  const decode = decoders.get(entry.dtype);
  if (decode === undefined) {
    throw runtimeErrors.error(
      "MODEL_TENSOR_INVALID",
      `${file}: tensor ${name} is of type ${entry.dtype}, expected one of ${[...decoders.keys()].join(", ")}`,
      { hint: "Convert the tensor to float32 or float16." },
    );
  }
  return { entry, decode };
}

function notFloating(file: string, name: string, dtype: string): Error {
  return runtimeErrors.error(
    "MODEL_TENSOR_INVALID",
    `${file}: tensor ${name} is of type ${dtype}, expected floating point`,
  );
}

/** A table over the types that we compute with; `bytes` holds elements of the tensor and nothing else. */
const decoders: ReadonlyMap<string, Decode> = new Map<string, Decode>([
  ["F32", (bytes) => new Float32Array(bytes)],
  ["F16", (bytes) => decodeFloat16(new Uint16Array(bytes))],
  ["BF16", (bytes) => decodeBfloat16(new Uint16Array(bytes))],
  ["I64", (bytes) => new BigInt64Array(bytes)],
]);
type Decode = (bytes: ArrayBuffer) => Float32Array | BigInt64Array;

/** One read call takes at most 2 GiB. */
const maximumReadBytes = 2 ** 30;

/** Fills `target` with the bytes of the place, which has its length. */
async function readInto(
  handle: FileHandle,
  file: string,
  target: ArrayBuffer,
  { offsetBytes, lengthBytes }: Pick<SafetensorsEntry, "offsetBytes" | "lengthBytes">,
): Promise<void> {
  const bytes = new Uint8Array(target);
  let done = 0;
  while (done < lengthBytes) {
    const want = Math.min(lengthBytes - done, maximumReadBytes);
    const { bytesRead } = await handle.read(bytes, done, want, offsetBytes + done);
    if (bytesRead === 0)
      throw truncatedFile(file, `ends at byte ${offsetBytes + done} while it is read`);
    done += bytesRead;
  }
}

async function readBytes(handle: FileHandle, file: string, offset: number, length: number) {
  const bytes = new ArrayBuffer(length);
  await readInto(handle, file, bytes, { offsetBytes: offset, lengthBytes: length });
  return Buffer.from(bytes);
}
