// Rows of float32 numbers by key, for the prefix cache: in memory or in a file, never above a limit. Who comes first
// stays: epochs visit every row once, so that throwing out the row used longest ago would throw out the next one asked for.
import { createHash, randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { runtimeErrors } from "../errors.ts";

/** Keeps rows of one length. */
export interface RowStore {
  /** Bytes of the rows kept. */
  readonly bytes: number;
  /** Copies a row into `row`; false, with `row` in any state, when it is not kept or was damaged. */
  read(key: string, row: Float32Array): Promise<boolean>;
  /** Keeps a copy of a row, once; false when there is no room. */
  write(key: string, row: Float32Array): Promise<boolean>;
  /** Forgets everything; safe to call twice. */
  close(): Promise<void>;
}

/** Rows in memory, `limitBytes` of numbers at most. */
export function memoryRowStore(limitBytes: number): RowStore {
  const rows = new Map<string, Float32Array>();
  let bytes = 0;
  return {
    get bytes() {
      return bytes;
    },
    read: async (key, row) => {
      const kept = rows.get(key);
      if (kept) row.set(kept);
      return kept !== undefined;
    },
    write: async (key, row) => {
      if (rows.has(key)) return true;
      if (bytes + row.byteLength > limitBytes) return false;
      rows.set(key, row.slice());
      bytes += row.byteLength;
      return true;
    },
    close: async () => {
      rows.clear();
      bytes = 0;
    },
  };
}

/**
 * Rows in a new file in `folder`, which has no name any more once it is open: however the process ends, the disk is free
 * again. Throws `CACHE_FOLDER_UNUSABLE`.
 */
export async function openFileRowStore(folder: string, limitBytes: number): Promise<RowStore> {
  const path = join(folder, `prefix-${randomBytes(6).toString("hex")}.rows`);
  try {
    await mkdir(folder, { recursive: true });
    const file = await open(path, "wx+", 0o600);
    await rm(path);
    return fileRowStore(file, limitBytes);
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw runtimeErrors.error("CACHE_FOLDER_UNUSABLE", `folder ${folder}: ${text}`, {
      hint: "Name a folder that can be written to, or keep rows in memory only.",
      cause,
    });
  }
}

/** Rows in an empty file, one behind the other, each after 16 bytes of its sha256; `limitBytes` of file at most. Owns the file. */
export function fileRowStore(file: FileHandle, limitBytes: number): RowStore {
  const places = new Map<string, number>();
  const freePlaces: number[] = [];
  let size = 0;
  let isDiskFull = false;
  let closing: Promise<void> | undefined;
  return {
    get bytes() {
      return size;
    },
    read: async (key, row) => {
      const place = places.get(key);
      if (place === undefined) return false;
      const record = new Uint8Array(digestBytes + row.byteLength);
      const { bytesRead } = await file.read(record, 0, record.length, place).catch(() => nothing);
      const content = record.subarray(digestBytes);
      if (bytesRead !== record.length || !digest(content).equals(record.subarray(0, digestBytes))) {
        places.delete(key);
        freePlaces.push(place);
        return false;
      }
      bytesOf(row).set(content);
      return true;
    },
    write: async (key, row) => {
      if (places.has(key)) return true;
      const record = Buffer.concat([digest(bytesOf(row)), bytesOf(row)]);
      const place = freePlaces.at(-1) ?? size;
      if (isDiskFull || place + record.length > limitBytes) return false;
      // A full disk ends the growth of the cache, not the training.
      isDiskFull = (await bytesWritten(file, record, place)) < record.length;
      if (isDiskFull) return false;
      freePlaces.pop();
      size = Math.max(size, place + record.length);
      places.set(key, place);
      return true;
    },
    close: () => {
      closing ??= file.close();
      return closing;
    },
  };
}

const digestBytes = 16;
const nothing = { bytesRead: 0 };

function digest(content: Uint8Array): Buffer {
  return createHash("sha256").update(content).digest().subarray(0, digestBytes);
}

function bytesOf(row: Float32Array): Uint8Array {
  return new Uint8Array(row.buffer, row.byteOffset, row.byteLength);
}

async function bytesWritten(file: FileHandle, record: Uint8Array, place: number): Promise<number> {
  try {
    return (await file.write(record, 0, record.length, place)).bytesWritten;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "";
    if (["ENOSPC", "EDQUOT", "EFBIG"].includes(code)) return 0;
    throw cause;
  }
}
