// Files by their sha256, fetched in pieces. A fetch that was cut off, by the network or by a kill, goes on behind the last piece
// that was written; a file takes its name only once its hash is right.
import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, mkdir, open, rename, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { syncFolder } from "../../runtime/index.ts";
import { largestPieceBytes } from "../control-messages.ts";
import { deviceProgramErrors } from "./errors.ts";

/** A file that is wanted. */
export interface WantedObject {
  readonly sha256: string;
  readonly bytes: number;
}

/** Some bytes of a file that is wanted. */
export interface WantedPiece {
  readonly sha256: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** How files are fetched. */
export interface FetchOptions {
  /** Holds `<sha256>`, and `<sha256>.<owner>.part` while it is fetched. */
  readonly folder: string;
  /** Tells programs that share the folder apart. */
  readonly owner: string;
  readonly askPiece: (piece: WantedPiece, signal: AbortSignal) => Promise<Uint8Array>;
  readonly signal: AbortSignal;
  /** Called after each piece with what of all that was wanted is there. */
  readonly onProgress?: (bytes: number, totalBytes: number) => void;
}

/**
 * Fetches the files that `folder` lacks; what it has is not asked for. Throws `DEVICE_STORE_FULL` before anything is asked for
 * when they have no room, and `DEVICE_PROVISION_INVALID` when what came is not what its hash says.
 */
export async function fetchObjects(
  wanted: readonly WantedObject[],
  options: FetchOptions,
): Promise<void> {
  const { folder, signal } = options;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const missing = await missingOf(wanted, options);
  if (missing.length === 0) return;
  await checkRoom(missing, folder);
  const stop = new AbortController();
  const until = AbortSignal.any([signal, stop.signal]);
  const pieces = asked(
    missing.flatMap((object) => [...piecesOf(object)]),
    (piece) => options.askPiece(piece, until),
  );
  const totalBytes = missing.reduce((sum, { bytes }) => sum + bytes, 0);
  let bytes = missing.reduce((sum, { fromBytes }) => sum + fromBytes, 0);
  const damaged: WantedObject[] = [];
  try {
    for (const object of missing) {
      const isSound = await fetchOne(object, options, async () => {
        const piece = await pieces();
        bytes += piece.length;
        options.onProgress?.(bytes, totalBytes);
        return piece;
      });
      if (!isSound) damaged.push(object);
    }
  } finally {
    stop.abort(new Error("the fetch has ended"));
  }
  // A power cut may leave a part whose bytes never reached the disk: it is fetched from its start, once.
  if (damaged.length > 0) await fetchObjects(damaged, options);
}

/** Requests under way: a piece travels while the one before is written. */
const piecesAhead = 3;

/** Kept free beside what is fetched. */
const spareBytes = 16 * 2 ** 20;

interface MissingObject extends WantedObject {
  /** Of its part, there already. */
  readonly fromBytes: number;
}

async function missingOf(
  wanted: readonly WantedObject[],
  options: FetchOptions,
): Promise<MissingObject[]> {
  const missing = new Map<string, MissingObject>();
  for (const object of wanted) {
    if ((await sizeOf(join(options.folder, object.sha256))) === object.bytes) continue;
    const part = (await sizeOf(partOf(object, options))) ?? 0;
    // More than there can be is no part of it.
    const fromBytes = part > object.bytes ? 0 : part;
    missing.set(object.sha256, { ...object, fromBytes });
  }
  return [...missing.values()];
}

async function checkRoom(missing: readonly MissingObject[], folder: string): Promise<void> {
  const neededBytes = missing.reduce((sum, { bytes, fromBytes }) => sum + bytes - fromBytes, 0);
  const { bavail, bsize } = await statfs(folder);
  if (neededBytes + spareBytes <= bavail * bsize) return;
  throw deviceProgramErrors.error(
    "DEVICE_STORE_FULL",
    `${folder}: the task's model needs ${neededBytes} bytes more, ${bavail * bsize} are free`,
    { hint: "Free some space, or put --state on another disk." },
  );
}

function* piecesOf({ sha256, bytes, fromBytes }: MissingObject): Iterable<WantedPiece> {
  for (let offsetBytes = fromBytes; offsetBytes < bytes; offsetBytes += largestPieceBytes) {
    const lengthBytes = Math.min(largestPieceBytes, bytes - offsetBytes);
    yield { sha256, offsetBytes, lengthBytes };
  }
}

/** The pieces in order, some of them asked for ahead. */
function asked(
  pieces: readonly WantedPiece[],
  ask: (piece: WantedPiece) => Promise<Uint8Array>,
): () => Promise<Uint8Array> {
  const underWay: Promise<Uint8Array>[] = [];
  let next = 0;
  return async () => {
    for (; next < pieces.length && underWay.length < piecesAhead; next++) {
      const piece = pieces[next] as WantedPiece;
      const asking = ask(piece).then((bytes) => checkLength(piece, bytes));
      // Failing before its turn must not count as unhandled.
      asking.catch(() => {});
      underWay.push(asking);
    }
    return await (underWay.shift() as Promise<Uint8Array>);
  };
}

/** False when a part that was there before spoilt it; nothing is left of it then. */
async function fetchOne(
  object: MissingObject,
  options: FetchOptions,
  nextPiece: () => Promise<Uint8Array>,
): Promise<boolean> {
  const { folder } = options;
  const part = partOf(object, options);
  const hash = createHash("sha256");
  if (object.fromBytes > 0) await hashFile(part, hash);
  const handle = await open(part, object.fromBytes > 0 ? "r+" : "w", 0o600);
  try {
    await fill(handle, object, { hash, nextPiece });
    await handle.sync();
  } finally {
    await handle.close();
  }
  if (hash.digest("hex") === object.sha256) {
    await rename(part, join(folder, object.sha256));
    await syncFolder(folder);
    return true;
  }
  await rm(part, { force: true });
  if (object.fromBytes > 0) return false;
  throw invalid(`${object.bytes} bytes that are not those of ${object.sha256.slice(0, 12)}`);
}

async function fill(
  handle: FileHandle,
  { fromBytes, bytes }: MissingObject,
  { hash, nextPiece }: { readonly hash: Hash; readonly nextPiece: () => Promise<Uint8Array> },
): Promise<void> {
  for (let offset = fromBytes; offset < bytes; ) {
    const piece = await nextPiece();
    hash.update(piece);
    await handle.write(piece, 0, piece.length, offset);
    offset += piece.length;
  }
}

function checkLength({ lengthBytes, sha256 }: WantedPiece, bytes: Uint8Array): Uint8Array {
  if (bytes.length === lengthBytes) return bytes;
  throw invalid(`${bytes.length} bytes of ${sha256.slice(0, 12)} in place of ${lengthBytes}`);
}

function partOf({ sha256 }: WantedObject, { folder, owner }: FetchOptions): string {
  return join(folder, `${sha256}.${owner}.part`);
}

async function hashFile(file: string, hash: Hash): Promise<void> {
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
}

async function sizeOf(file: string): Promise<number | undefined> {
  return await stat(file).then(
    ({ size }) => size,
    () => undefined,
  );
}

function invalid(what: string): Error {
  return deviceProgramErrors.error("DEVICE_PROVISION_INVALID", `the coordinator sent ${what}`, {
    hint: "Its model folder changed while it runs, or it is not the coordinator it should be.",
  });
}
