// Puts one peer's chunks together. What a peer may make this end hold is bounded: chunks are kept as they
// come, nothing is allocated on its word, and the message touched longest ago makes room for a new one.
import { brokerErrors } from "../errors.ts";
import { type ChunkFrame, chunkCount } from "./frames.ts";

/** Limits of an assembler. */
export interface AssemblerLimits {
  /** Largest message. */
  readonly maxMessageBytes: number;
  /** Messages open at once. */
  readonly maxOpen: number;
}

/** What a chunk changed. */
export type Progress =
  | { readonly kind: "complete"; readonly bytes: Uint8Array }
  | { readonly kind: "partial"; readonly isNew: boolean; readonly received: number };

/** Puts chunks together, in any order, doubled or not. */
export interface Assembler {
  /** Throws `ENVELOPE_TOO_LARGE`, or `ENVELOPE_INVALID` for a chunk that contradicts an earlier one. */
  add(chunk: ChunkFrame): Progress;
  /** Which chunks are here, as bits; empty when none is. */
  chunksOf(message: string): Uint8Array;
  drop(message: string): void;
  clear(): void;
}

/** An empty assembler. */
export function createAssembler(limits: AssemblerLimits): Assembler {
  const open = new Map<string, Partial>();
  return {
    add: (chunk) => {
      const partial = open.get(chunk.message) ?? begin(chunk, limits);
      if (partial.totalBytes !== chunk.totalBytes || partial.chunkBytes !== chunk.chunkBytes) {
        const text = `two chunks of message ${chunk.message} disagree about its length`;
        throw brokerErrors.error("ENVELOPE_INVALID", text);
      }
      open.delete(chunk.message);
      open.set(chunk.message, partial);
      const isNew = !partial.chunks.has(chunk.index);
      if (isNew) {
        // A copy: the payload is a view into whatever else the socket read.
        partial.chunks.set(chunk.index, Uint8Array.from(chunk.payload));
      }
      makeRoom(open, limits);
      if (partial.chunks.size < chunkCount(partial.totalBytes, partial.chunkBytes)) {
        return { kind: "partial", isNew, received: partial.chunks.size };
      }
      open.delete(chunk.message);
      return { kind: "complete", bytes: join(partial) };
    },
    chunksOf: (message) => bitsOf(open.get(message)),
    drop: (message) => {
      open.delete(message);
    },
    clear: () => open.clear(),
  };
}

interface Partial {
  readonly totalBytes: number;
  readonly chunkBytes: number;
  readonly chunks: Map<number, Uint8Array>;
}

function begin({ totalBytes, chunkBytes }: ChunkFrame, limits: AssemblerLimits): Partial {
  if (totalBytes > limits.maxMessageBytes) {
    const text = `a message of ${totalBytes} bytes exceeds the limit of ${limits.maxMessageBytes}`;
    throw brokerErrors.error("ENVELOPE_TOO_LARGE", text);
  }
  return { totalBytes, chunkBytes, chunks: new Map() };
}

/** Forgets the oldest; its sender learns that from the next probe. The newest always stays. */
function makeRoom(open: Map<string, Partial>, limits: AssemblerLimits): void {
  const declared = () =>
    [...open.values()].reduce((total, { totalBytes }) => total + totalBytes, 0);
  while (open.size > 1 && (open.size > limits.maxOpen || declared() > 2 * limits.maxMessageBytes)) {
    const [oldest] = open.keys();
    open.delete(oldest ?? "");
  }
}

function join({ chunks, totalBytes, chunkBytes }: Partial): Uint8Array {
  const bytes = new Uint8Array(totalBytes);
  for (const [index, chunk] of chunks) {
    bytes.set(chunk, index * chunkBytes);
  }
  return bytes;
}

function bitsOf(partial: Partial | undefined): Uint8Array {
  if (partial === undefined) {
    return new Uint8Array(0);
  }
  const count = chunkCount(partial.totalBytes, partial.chunkBytes);
  const bits = new Uint8Array(Math.ceil(count / 8));
  for (const index of partial.chunks.keys()) {
    bits[index >> 3] = (bits[index >> 3] ?? 0) | (1 << (index & 7));
  }
  return bits;
}
