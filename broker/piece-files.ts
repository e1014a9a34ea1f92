// What has come of large bodies, on disk: a file for each body with its pieces as frames, each with its CRC-32, one after the other.
// It is written behind the back of what goes on and never synced: what a crash takes is sent again, and hashes tell what it spoiled.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { appendFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { PieceStore } from "./bodies.ts";
import type { Piece } from "./codec/assembler.ts";
import { decodeFrame, encodeFrame } from "./codec/frames.ts";
import type { Log } from "./transport/transport.ts";

/** Where pieces are kept. */
export interface PieceFilesOptions {
  /** Created when the first piece comes. */
  readonly folder: string;
  /** Of all files; further pieces are not kept. 128 MiB unless told. */
  readonly maxBytes?: number;
  readonly log: Log;
}

/** Bodies whose files outlive a restart; those touched longest ago go. */
const maxFiles = 8;

/** Opens the store of one peer. */
export function openPieceFiles(options: PieceFilesOptions): PieceStore {
  return new PieceFiles(options);
}

class PieceFiles implements PieceStore {
  readonly #options: PieceFilesOptions;
  readonly #bytes = new Map<string, number>();
  /** Records that wait for the disk, by body: written together. */
  readonly #waiting = new Map<string, Uint8Array[]>();
  #last: Promise<void> = Promise.resolve();
  #hasFailed = false;

  constructor(options: PieceFilesOptions) {
    this.#options = options;
    const { folder } = options;
    const names = existsSync(folder) ? readdirSync(folder) : [];
    const files = names.map((name) => ({ name, ...statOf(join(folder, name)) }));
    const oldest = files.sort((a, b) => a.changedAtMs - b.changedAtMs).slice(0, -maxFiles);
    for (const { name, bytes } of files) {
      if (oldest.some((file) => file.name === name)) {
        rmSync(join(folder, name), { force: true });
      } else {
        this.#bytes.set(name, bytes);
      }
    }
  }

  read(name: string): readonly Piece[] {
    if (!this.#bytes.has(name)) {
      return [];
    }
    const bytes = readFileSync(this.#file(name), { flag: "r" });
    const pieces: Piece[] = [];
    let offset = 0;
    while (offset + lengthBytes <= bytes.byteLength) {
      const end = offset + lengthBytes + bytes.readUInt32LE(offset);
      const piece = pieceOf(bytes.subarray(offset + lengthBytes, end));
      if (piece?.message !== name) {
        break;
      }
      pieces.push(piece);
      offset = end;
    }
    return pieces;
  }

  keep(piece: Piece): void {
    const name = piece.message;
    const record = recordOf(piece);
    const total = [...this.#bytes.values()].reduce((sum, bytes) => sum + bytes, record.byteLength);
    const isKnown = this.#bytes.has(name);
    const { maxBytes = 128 * 1024 * 1024 } = this.#options;
    if (total > maxBytes || this.#hasFailed || (!isKnown && this.#bytes.size >= maxFiles)) {
      return;
    }
    this.#bytes.set(name, (this.#bytes.get(name) ?? 0) + record.byteLength);
    const waiting = this.#waiting.get(name);
    if (waiting !== undefined) {
      waiting.push(record);
      return;
    }
    this.#waiting.set(name, [record]);
    this.#then(async () => {
      const records = this.#waiting.get(name) ?? [];
      this.#waiting.delete(name);
      if (records.length > 0) {
        mkdirSync(this.#options.folder, { recursive: true, mode: 0o700 });
        await appendFile(this.#file(name), Buffer.concat(records), { mode: 0o600 });
      }
    });
  }

  forget(name: string): void {
    this.#waiting.delete(name);
    if (this.#bytes.delete(name)) {
      this.#then(() => rm(this.#file(name), { force: true }));
    }
  }

  #file(name: string): string {
    return join(this.#options.folder, name);
  }

  /** One after the other; a disk that refuses costs a resumption, not the transfer. */
  #then(action: () => Promise<void>): void {
    this.#last = this.#last.then(action).catch((error: Error) => {
      if (!this.#hasFailed) {
        const { folder, log } = this.#options;
        log(`what comes is not kept over a restart: ${folder}: ${error.message}`);
      }
      this.#hasFailed = true;
    });
  }
}

const lengthBytes = 4;

function recordOf({ message, isBody, offset, totalBytes, payload }: Piece): Uint8Array {
  const instance = "0".repeat(16);
  const place = { instance, message, isBody, offset, totalBytes, payload };
  const frame = encodeFrame({ kind: "chunk", ...place });
  const length = Buffer.alloc(lengthBytes);
  length.writeUInt32LE(frame.byteLength);
  return Buffer.concat([length, frame]);
}

/** Undefined for what a crash left torn. */
function pieceOf(bytes: Uint8Array): Piece | undefined {
  try {
    const frame = decodeFrame(bytes);
    return frame.kind === "chunk" ? frame : undefined;
  } catch {
    return undefined;
  }
}

function statOf(path: string): { readonly bytes: number; readonly changedAtMs: number } {
  const { size: bytes, mtimeMs: changedAtMs } = statSync(path);
  return { bytes, changedAtMs };
}
