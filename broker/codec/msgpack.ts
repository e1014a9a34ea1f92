// The only user of msgpackr. Foreign bytes are walked first: the library runs extensions, keeps record
// structures between messages, recurses as deep as it is told and replaces broken UTF-8 silently.
import { isUtf8 } from "node:buffer";
import { Packr, Unpackr } from "msgpackr";
import { brokerErrors } from "../errors.ts";

/** Deepest nesting of lists and maps. */
export const maxDepth = 16;

/** Packs plain data: no typed arrays, no shared structures, so that a late joiner can read it. */
export function pack(value: unknown): Uint8Array {
  return packr.pack(value);
}

/** Unpacks one value of nil, booleans, numbers, UTF-8 strings, lists and maps by string; throws `ENVELOPE_INVALID`. */
export function unpack(bytes: Uint8Array): unknown {
  walk(bytes);
  try {
    return unpackr.unpack(bytes);
  } catch (cause) {
    throw brokerErrors.error("ENVELOPE_INVALID", "a header cannot be unpacked", { cause });
  }
}

const packr = new Packr({ useRecords: false, variableMapSize: true, encodeUndefinedAsNil: true });
const unpackr = new Unpackr({ useRecords: false, int64AsType: "number" });

/** An open list or map: values still to come, and whether every other one is a key. */
interface Level {
  left: number;
  readonly isMap: boolean;
}

/** Holds the bytes against the msgpack specification's table of formats. */
function walk(bytes: Uint8Array): void {
  const levels: Level[] = [{ left: 1, isMap: false }];
  let offset = 0;
  for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
    if (level.left === 0) {
      levels.pop();
      continue;
    }
    const isKey = level.isMap && level.left % 2 === 0;
    level.left -= 1;
    const item = readItem(bytes, offset);
    if (isKey && item.kind !== "text") {
      throw invalid("a map key is not a string", offset);
    }
    offset = item.end;
    if (item.kind === "list" || item.kind === "map") {
      levels.push(open(item, levels.length, bytes.byteLength));
    }
  }
  if (offset !== bytes.byteLength) {
    throw invalid("bytes follow the value", offset);
  }
}

/** Every value takes a byte at least, which bounds what a count may say. */
function open(item: Item & { kind: "list" | "map" }, depth: number, totalBytes: number): Level {
  const isMap = item.kind === "map";
  const left = isMap ? 2 * item.count : item.count;
  if (depth > maxDepth || left > totalBytes - item.end) {
    throw invalid("nesting or a count exceeds its limit", item.end);
  }
  return { left, isMap };
}

type Item =
  | { readonly kind: "scalar" | "text"; readonly end: number }
  | { readonly kind: "list" | "map"; readonly end: number; readonly count: number };

function readItem(bytes: Uint8Array, offset: number): Item {
  const type = bytes[offset];
  if (type === undefined) {
    throw invalid("the bytes end early", offset);
  }
  const item = readShort(bytes, offset, type) ?? readLong(bytes, offset, type);
  if (item === undefined) {
    throw invalid(`type 0x${type.toString(16)} may not travel`, offset);
  }
  if (item.end > bytes.byteLength) {
    throw invalid("the bytes end early", offset);
  }
  return item;
}

/** Formats whose length is in the type byte. */
function readShort(bytes: Uint8Array, offset: number, type: number): Item | undefined {
  if (type < 0x80 || type >= 0xe0) {
    return { kind: "scalar", end: offset + 1 };
  }
  if (type < 0xa0) {
    return { kind: type < 0x90 ? "map" : "list", end: offset + 1, count: type & 0x0f };
  }
  return type < 0xc0 ? text(bytes, offset + 1, type & 0x1f) : undefined;
}

/** Bytes after the type byte of nil, booleans, floats and whole numbers. */
const scalarBytes: Readonly<Record<number, number>> = {
  192: 0,
  194: 0,
  195: 0,
  202: 4,
  203: 8,
  204: 1,
  205: 2,
  206: 4,
  207: 8,
  208: 1,
  209: 2,
  210: 4,
  211: 8,
};

/** Bytes of the length that follows the type byte of longer strings, lists and maps. */
const lengthBytes: Readonly<Record<number, number>> = {
  217: 1,
  218: 2,
  219: 4,
  220: 2,
  221: 4,
  222: 2,
  223: 4,
};

function readLong(bytes: Uint8Array, offset: number, type: number): Item | undefined {
  const scalar = scalarBytes[type];
  if (scalar !== undefined) {
    return { kind: "scalar", end: offset + 1 + scalar };
  }
  const width = lengthBytes[type];
  if (width === undefined) {
    return undefined;
  }
  const start = offset + 1 + width;
  let count = 0;
  for (const byte of bytes.subarray(offset + 1, start)) {
    count = count * 256 + byte;
  }
  if (type <= 219) {
    return text(bytes, start, count);
  }
  return { kind: type <= 221 ? "list" : "map", end: start, count };
}

function text(bytes: Uint8Array, start: number, length: number): Item {
  if (!isUtf8(bytes.subarray(start, start + length))) {
    throw invalid("a string is not UTF-8", start);
  }
  return { kind: "text", end: start + length };
}

function invalid(what: string, offset: number): Error {
  return brokerErrors.error("ENVELOPE_INVALID", `a header is malformed at byte ${offset}: ${what}`);
}
