// What stands in an envelope's header, packed and checked. Sizes of tensors are held against their shapes
// here, before their bytes are touched.
import { z } from "zod";
import { type EncodingName, encodingNames } from "../../protocols/index.ts";
import { elementCount } from "../../runtime/index.ts";
import { brokerErrors } from "../errors.ts";
import { idPattern } from "../topics.ts";
import type { Envelope, WireError } from "./envelope.ts";
import { maxDepth, pack, unpack } from "./msgpack.ts";

/** A header taken apart: who, where, what, and how the body is cut. */
export interface HeaderBody extends Omit<z.output<typeof headerSchema>, "error"> {
  readonly error?: WireError;
}

/** Most bytes of a header. A 4 MB header of empty maps would take seconds. */
export const maxHeaderBytes = 64 * 1024;

/** Packs the header; throws `ENVELOPE_INVALID` naming what may not travel, or `ENVELOPE_TOO_LARGE`. */
export function packHeader(envelope: Envelope): Uint8Array {
  const { instance: _instance, sequence: _sequence, replyTo: _replyTo, ...rest } = envelope;
  const header = {
    ...rest,
    fields: plain(envelope.fields, "fields", 0),
    tensors: [...envelope.tensors].map(([name, { shape, encoding, bytes }]) => {
      return { name, shape, encoding, byteLength: bytes.byteLength };
    }),
    blobs: [...envelope.blobs].map(([name, { byteLength }]) => ({ name, byteLength })),
  };
  const packed = pack(check(header));
  if (packed.byteLength > maxHeaderBytes) {
    const text = `the fields of a "${envelope.kind}" message make a header of ${packed.byteLength} bytes, at most ${maxHeaderBytes} fit`;
    const hint = "send bulk as tensors or blobs";
    throw brokerErrors.error("ENVELOPE_TOO_LARGE", text, { hint });
  }
  return packed;
}

/** A checked header from foreign bytes; throws `ENVELOPE_INVALID`. */
export function parseHeader(bytes: Uint8Array): HeaderBody {
  return check(unpack(bytes));
}

const id = z.string().regex(idPattern);
const count = z.int().min(0).max(0xffff_ffff);
const name = z.string().regex(/^[\x20-\x7e]{1,256}$/);
const kind = z.string().regex(/^[A-Za-z][A-Za-z0-9./_-]{0,63}$/);

/** Least and most bytes of so many elements. What depends on scales and on values dropped, the decoders check. */
const byteLengths: Readonly<Record<EncodingName, (elements: number) => readonly [number, number]>> =
  {
    float32: (elements) => [4 * elements, 4 * elements],
    bf16: (elements) => [2 * elements, 2 * elements],
    int8: (elements) => [elements, 16 + 6 * elements],
    int4: (elements) => [elements / 2, 2 + elements],
    topk: (elements) => [4, 16 + 2 * elements],
  };

const encoding = z.enum(encodingNames, { message: "the encoding is unknown" });

const tensorSchema = z
  .strictObject({
    name,
    shape: z.array(z.int().min(0).max(0x7fff_ffff)).max(8),
    encoding: encoding,
    byteLength: count,
  })
  .refine(({ shape, encoding, byteLength }) => fits(shape, encoding, byteLength), {
    message: "the byte length does not follow from shape and encoding",
  });

/** Everything that stands in a header. */
export const headerSchema = z.strictObject({
  federation: id,
  task: z.union([id, z.literal("")]),
  round: count,
  attempt: count,
  lane: count,
  sender: id,
  kind,
  error: z
    .strictObject({
      code: z.string().regex(/^[A-Z][A-Z0-9_]{1,63}$/),
      message: z.string().max(4000),
      hint: z.string().max(4000).optional(),
    })
    .transform(({ hint, ...rest }) => ({ ...rest, ...(hint === undefined ? {} : { hint }) }))
    .optional(),
  fields: z.record(z.string(), z.unknown()),
  tensors: z.array(tensorSchema).refine(hasUniqueNames, { message: "a name appears twice" }),
  blobs: z
    .array(z.strictObject({ name, byteLength: count }))
    .refine(hasUniqueNames, { message: "a name appears twice" }),
});

function check(header: unknown): HeaderBody {
  const result = headerSchema.safeParse(header);
  if (!result.success) {
    const [issue] = result.error.issues;
    const where = issue?.path.map(String).join(".") ?? "";
    const text = `an envelope's header is invalid at "${where}": ${issue?.message}`;
    throw brokerErrors.error("ENVELOPE_INVALID", text);
  }
  const { error, ...rest } = result.data;
  return { ...rest, ...(error === undefined ? {} : { error }) };
}

function fits(shape: readonly number[], encoding: EncodingName, byteLength: number): boolean {
  const [least, most] = byteLengths[encoding](elementCount(shape));
  return byteLength >= least && byteLength <= most;
}

function hasUniqueNames(entries: readonly { readonly name: string }[]): boolean {
  return new Set(entries.map((entry) => entry.name)).size === entries.length;
}

/** A copy of plain data without undefined members; throws `ENVELOPE_INVALID` for anything else, naming its path. */
function plain(value: unknown, path: string, depth: number): unknown {
  if (depth > maxDepth - 2) {
    throw unfit(path, "is nested too deep");
  }
  if (value === null || typeof value === "string" || typeof value === "boolean") {
    return value;
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) {
      throw unfit(path, "is not finite");
    }
    return value;
  }
  if (Array.isArray(value)) {
    return value.map((item, index) => plain(item, `${path}[${index}]`, depth + 1));
  }
  const prototype = typeof value === "object" ? Object.getPrototypeOf(value) : undefined;
  if (prototype !== Object.prototype && prototype !== null) {
    throw unfit(path, "is not plain data");
  }
  const members = Object.entries(value as object).filter(([, member]) => member !== undefined);
  if (Object.hasOwn(value as object, "__proto__")) {
    throw unfit(path, "has a member __proto__");
  }
  return Object.fromEntries(
    members.map(([key, member]) => [key, plain(member, `${path}.${key}`, depth + 1)]),
  );
}

function unfit(path: string, why: string): Error {
  return brokerErrors.error("ENVELOPE_INVALID", `cannot send ${path}: the value ${why}`);
}
