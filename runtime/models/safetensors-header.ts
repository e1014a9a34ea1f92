// The header of a safetensors file (https://github.com/huggingface/safetensors#format): a JSON object that
// says for each tensor its type, its shape and where its bytes lie. Pure: bytes in, checked entries out.
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import { elementCount } from "../tensor.ts";

/** Where one tensor lies in a safetensors file, and as what. */
export interface SafetensorsEntry {
  /** The format's name of the element type, such as `F32`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** A tensor as it lies in a file. */
export interface StoredTensor {
  /** The format's name of the element type, such as `BF16`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Little-endian. */
  readonly bytes: Uint8Array;
}

/** A parsed header. */
export interface SafetensorsHeader {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
}

/** The format's own limit on the header. */
export const maximumHeaderBytes = 100_000_000;

/**
 * What a header says, checked: types and shapes fit the bytes, and the tensors follow each other without
 * overlap or gap up to the end of the file, as the format demands. `sizeBytes` is the whole file's.
 */
export function parseHeader(file: string, header: Buffer, sizeBytes: number): SafetensorsHeader {
  let json: unknown;
  try {
    json = JSON.parse(header.toString("utf8"));
  } catch (cause) {
    throw invalidFile(file, "has a header that is not JSON", cause);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw invalidFile(file, "has a header that is not a JSON object");
  }
  const { __metadata__: rawMetadata = {}, ...entries } = json as Record<string, unknown>;
  const metadata = metadataSchema.safeParse(rawMetadata);
  if (!metadata.success) throw invalidFile(file, "has metadata that is not text by name");
  const dataStart = 8 + header.length;
  const tensors = new Map<string, SafetensorsEntry>();
  for (const [name, entry] of Object.entries(entries)) {
    tensors.set(name, locate(file, name, entry, dataStart));
  }
  checkLayout(file, tensors, dataStart, sizeBytes);
  return { metadata: metadata.data, tensors };
}

/** The length and header of a file that holds such tensors in the order of `entries`, padded to a multiple of 8 bytes. */
export function encodeHeader(
  entries: Iterable<Pick<SafetensorsEntry, "dtype" | "shape"> & { readonly name: string }>,
  metadata: Readonly<Record<string, string>>,
): Buffer {
  // A map, because a tensor may be called `__proto__`.
  const header = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) header.set("__metadata__", sorted(metadata));
  let end = 0;
  for (const { name, dtype, shape } of entries) {
    const start = end;
    end += elementCount(shape) * (elementBytes.get(dtype) as number);
    header.set(name, { dtype, shape, data_offsets: [start, end] });
  }
  const text = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  // Padded with blanks so that the tensors start on a multiple of 8 bytes.
  const head = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, " ");
  head.writeBigUInt64LE(BigInt(head.length - 8));
  text.copy(head, 8);
  return head;
}

/** The error for a file that is not a sound safetensors file. */
export function invalidFile(file: string, fault: string, cause?: unknown) {
  return runtimeErrors.error("MODEL_FOLDER_INVALID", `${file} ${fault}`, {
    cause,
    hint: "The file is not a sound safetensors file; fetch or export it again.",
  });
}

/** The error for a file that is shorter than it says. */
export function truncatedFile(file: string, fault: string) {
  return runtimeErrors.error("MODEL_FILE_TRUNCATED", `${file} is cut off: it ${fault}`, {
    hint: "Copy or download the file again.",
  });
}

/** Element sizes of the format's types; types of less than a byte are not read. */
const elementBytes: ReadonlyMap<string, number> = new Map([
  ["F64", 8],
  ["F32", 4],
  ["F16", 2],
  ["BF16", 2],
  ["F8_E4M3", 1],
  ["F8_E5M2", 1],
  ["I64", 8],
  ["I32", 4],
  ["I16", 2],
  ["I8", 1],
  ["U64", 8],
  ["U32", 4],
  ["U16", 2],
  ["U8", 1],
  ["BOOL", 1],
]);

const entrySchema = z.object({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()).max(16),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
});
const metadataSchema = z.record(z.string(), z.string());

function locate(file: string, name: string, raw: unknown, dataStart: number): SafetensorsEntry {
  const parsed = entrySchema.safeParse(raw);
  if (!parsed.success) {
    throw invalidFile(
      file,
      `describes tensor ${name} without a valid dtype, shape and data_offsets`,
    );
  }
  const { dtype, shape, data_offsets: offsets } = parsed.data;
  const [start, end] = offsets;
  const size = elementBytes.get(dtype);
  if (end < start) throw invalidFile(file, `ends tensor ${name} at byte ${end}, before its start`);
  if (size !== undefined && elementCount(shape) * size !== end - start) {
    throw invalidFile(
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
      throw truncatedFile(
        file,
        `holds ${sizeBytes} bytes, tensor ${name} ends at ${offsetBytes + lengthBytes}`,
      );
    }
    if (offsetBytes !== end) {
      const fault = offsetBytes < end ? "overlaps the tensor before it" : "leaves a gap before it";
      throw invalidFile(file, `has a tensor ${name} that ${fault}`);
    }
    end = offsetBytes + lengthBytes;
  }
  if (end !== sizeBytes)
    throw invalidFile(file, `has ${sizeBytes - end} bytes behind its last tensor`);
}

function sorted(metadata: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata).sort(([a], [b]) => (a < b ? -1 : 1)));
}
