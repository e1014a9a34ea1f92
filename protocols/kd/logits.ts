// Logits as they travel in `kd`: of each row how many were kept, which, their values and the weight of the dropped ones,
// row behind row in one string of bits.
import { z } from "zod";
import type { EncodedTensor } from "../encoding/encoded.ts";
import { protocolErrors } from "../errors.ts";
import type { Payload } from "../protocol.ts";
import { type BitReader, bitReader, bitWriter } from "./bit-stream.ts";
import { classSetBits, readClassSet, writeClassSet } from "./class-sets.ts";
import type { SparseLogits } from "./sparse-logits.ts";
import { type LogitEncoding, logitEncodings, valueCode } from "./value-codes.ts";

/** Largest vocabulary that logits may be over. */
const mostClasses = 2 ** 20;

/** Fields beside the blob `logits`. */
export const logitsFields = {
  /** Classes the logits were taken over. */
  classes: z.int().positive().max(mostClasses),
  rows: z.int().nonnegative(),
  /** Most logits kept of a row; of every row as many unless `isCounted`. */
  kept: z.int().positive().max(mostClasses),
  /** Whether each row says how many it kept. */
  isCounted: z.boolean(),
  encoding: z.enum(logitEncodings),
};

const packedFields = z.object(logitsFields);

/** Packed logits, ready for a message. */
export interface PackedLogits {
  readonly fields: z.output<typeof packedFields>;
  readonly tensors: ReadonlyMap<string, EncodedTensor>;
  readonly blobs: ReadonlyMap<string, Uint8Array>;
}

/** What logits must be of. */
export interface LogitsSize {
  readonly rows: number;
  readonly classes: number;
}

/** Packs logits; float32 with all classes kept loses nothing. */
export function packLogits(logits: SparseLogits, encoding: LogitEncoding): PackedLogits {
  const { classes, rows, starts } = logits;
  const counts = Array.from({ length: rows }, (_, row) => countOf(starts, row));
  const kept = counts.reduce((most, count) => Math.max(most, count), 1);
  const isCounted = counts.some((count) => count !== kept);
  const layout = { classes, kept, isCounted, encoding };
  const writer = bitWriter(counts.reduce((sum, count) => sum + rowBits(count, layout), 0));
  const code = valueCode(encoding);
  for (let row = 0; row < rows; row++) {
    const [from, to] = [starts[row] as number, starts[row + 1] as number];
    if (isCounted) writer.write(to - from, countBits(kept));
    writeClassSet(writer, classes, logits.indices.subarray(from, to));
    const rest = to - from < classes ? (logits.rests[row] as number) : undefined;
    code.write(writer, logits.values.subarray(from, to), rest);
  }
  const blobs = new Map([["logits", writer.bytes]]);
  return { fields: { ...layout, rows }, tensors: new Map(), blobs };
}

/** Logits of a foreign message; throws `PROTOCOL_PAYLOAD_INVALID` when it does not hold as many as this end expects. */
export function unpackLogits(
  { fields, blobs }: Pick<Payload, "blobs"> & Pick<PackedLogits, "fields">,
  { rows, classes }: LogitsSize,
): SparseLogits {
  const { kept } = fields;
  if (fields.classes !== classes)
    throw invalid(`${fields.classes} classes, the task has ${classes}`);
  if (fields.rows !== rows) throw invalid(`${fields.rows} rows, expected ${rows}`);
  if (kept > classes) throw invalid(`${kept} kept of ${classes} classes`);
  const bytes = blobs?.get("logits");
  if (!bytes) throw invalid('the blob "logits" is missing');
  // A value takes at least half a byte, so that what is allocated never exceeds 17 times what came.
  const room = Math.min(rows * kept, 2 * bytes.length);
  const sparse = {
    classes,
    rows,
    starts: new Uint32Array(rows + 1),
    indices: new Uint32Array(room),
    values: new Float32Array(room),
    rests: new Float32Array(rows),
  };
  const reader = bitReader(bytes);
  for (let row = 0; row < rows; row++) readRow(reader, fields, sparse, row);
  reader.end();
  const total = sparse.starts[rows] as number;
  const { indices, values } = sparse;
  return { ...sparse, indices: indices.slice(0, total), values: values.slice(0, total) };
}

function readRow(
  reader: BitReader,
  { classes, kept, isCounted, encoding }: LogitsLayout,
  { starts, indices, values, rests }: SparseLogits,
  row: number,
): void {
  const from = starts[row] as number;
  const count = isCounted ? reader.read(countBits(kept)) : kept;
  if (count < 1 || count > kept) throw invalid(`row ${row} keeps ${count} of at most ${kept}`);
  const to = from + count;
  if (to > values.length) throw invalid(`the bytes do not hold row ${row}`);
  if (!readClassSet(reader, classes, indices.subarray(from, to)))
    throw invalid(`the classes of row ${row} are not ${count} of ${classes}`);
  const own = values.subarray(from, to);
  const rest = valueCode(encoding).read(reader, own, count < classes);
  if (!own.every(Number.isFinite) || !(rest < Number.POSITIVE_INFINITY))
    throw invalid(`row ${row} holds values that are not finite`);
  rests[row] = rest;
  starts[row + 1] = to;
}

/** How rows are written. */
export type LogitsLayout = Omit<PackedLogits["fields"], "rows">;

/** Bytes of packed rows that keep so many logits each. */
export function packedByteLength(counts: readonly number[], layout: LogitsLayout): number {
  return Math.ceil(counts.reduce((sum, count) => sum + rowBits(count, layout), 0) / 8);
}

/** Bytes of all logits in float32, none dropped; 0 for a message without logits. */
export function rawLogitsBytes({ fields }: Payload): number {
  return 4 * Number(fields["rows"] ?? 0) * Number(fields["classes"] ?? 0);
}

function rowBits(count: number, { classes, kept, isCounted, encoding }: LogitsLayout): number {
  const values = valueCode(encoding).bits(count, count < classes);
  return (isCounted ? countBits(kept) : 0) + classSetBits(classes, count) + values;
}

/** Bits of a number up to `kept`. */
function countBits(kept: number): number {
  return 32 - Math.clz32(kept);
}

function countOf(starts: Uint32Array, row: number): number {
  return (starts[row + 1] as number) - (starts[row] as number);
}

function invalid(what: string): Error {
  return protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `logits: ${what}`);
}
