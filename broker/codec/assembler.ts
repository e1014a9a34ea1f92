// Puts one peer's chunks together. What a peer may make this end hold is bounded: memory is taken a segment at a time as
// bytes come, nothing on its word, and the message touched longest ago makes room for a new one.
import { brokerErrors } from "../errors.ts";
import { type ChunkFrame, hasUnit, unitBytes, unitCount } from "./frames.ts";

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
  | { readonly kind: "partial"; readonly isNew: boolean };

/** What an assembler takes of a chunk's frame. */
export type Piece = Pick<ChunkFrame, "message" | "isBody" | "offset" | "totalBytes" | "payload">;

/** Puts chunks together, in any order, doubled or not. */
export interface Assembler {
  /** Throws `ENVELOPE_TOO_LARGE`, or `ENVELOPE_INVALID` for a chunk that contradicts an earlier one. */
  add(piece: Piece): Progress;
  /** Which units are here, as bits; undefined when the message is not open. */
  unitsOf(message: string): Uint8Array | undefined;
  drop(message: string): void;
  /** Forgets all but bodies, which are what they are whoever sends them. */
  forgetMessages(): void;
  clear(): void;
}

/** An empty assembler; `onForgotten` hears of messages that made room. */
export function createAssembler(
  limits: AssemblerLimits,
  onForgotten: (message: string) => void = () => {},
): Assembler {
  const open = new Map<string, Partial>();
  return {
    add: (piece) => {
      const partial = open.get(piece.message) ?? begin(piece, limits);
      if (partial.totalBytes !== piece.totalBytes) {
        const text = `two chunks of message ${piece.message} disagree about its length`;
        throw brokerErrors.error("ENVELOPE_INVALID", text);
      }
      open.delete(piece.message);
      open.set(piece.message, partial);
      const isNew = place(partial, piece);
      makeRoom(open, limits, onForgotten);
      if (partial.missing > 0) {
        return { kind: "partial", isNew };
      }
      open.delete(piece.message);
      return { kind: "complete", bytes: join(partial) };
    },
    unitsOf: (message) => open.get(message)?.units,
    drop: (message) => {
      open.delete(message);
    },
    forgetMessages: () => {
      for (const [message, { isBody }] of [...open]) {
        if (!isBody) {
          open.delete(message);
        }
      }
    },
    clear: () => open.clear(),
  };
}

/** Bytes that are taken at once. */
const segmentBytes = 16 * unitBytes;

interface Partial {
  readonly totalBytes: number;
  readonly isBody: boolean;
  readonly segments: Map<number, Uint8Array>;
  readonly units: Uint8Array;
  /** Units still to come. */
  missing: number;
}

function begin({ totalBytes, isBody }: Piece, limits: AssemblerLimits): Partial {
  if (totalBytes > limits.maxMessageBytes) {
    const text = `a message of ${totalBytes} bytes exceeds the limit of ${limits.maxMessageBytes}`;
    throw brokerErrors.error("ENVELOPE_TOO_LARGE", text);
  }
  const missing = unitCount(totalBytes);
  const units = new Uint8Array(Math.ceil(missing / 8));
  return { totalBytes, isBody, segments: new Map(), units, missing };
}

/** Copies what is new: the payload is a view into whatever else the socket read. */
function place(partial: Partial, { offset, payload }: Piece): boolean {
  const before = partial.missing;
  for (let at = 0; at < payload.byteLength; at += unitBytes) {
    const start = offset + at;
    const unit = start / unitBytes;
    if (hasUnit(partial.units, unit)) {
      continue;
    }
    const segment = segmentOf(partial, start);
    segment.set(payload.subarray(at, at + unitBytes), start % segmentBytes);
    partial.units[unit >> 3] = (partial.units[unit >> 3] ?? 0) | (1 << (unit & 7));
    partial.missing -= 1;
  }
  return partial.missing < before;
}

function segmentOf({ segments, totalBytes }: Partial, start: number): Uint8Array {
  const index = Math.floor(start / segmentBytes);
  const known = segments.get(index);
  if (known !== undefined) {
    return known;
  }
  const segment = new Uint8Array(Math.min(segmentBytes, totalBytes - index * segmentBytes));
  segments.set(index, segment);
  return segment;
}

/** Forgets the oldest; its sender learns that from the next probe. The newest always stays. */
function makeRoom(
  open: Map<string, Partial>,
  limits: AssemblerLimits,
  onForgotten: (message: string) => void,
): void {
  const declared = () =>
    [...open.values()].reduce((total, { totalBytes }) => total + totalBytes, 0);
  while (open.size > 1 && (open.size > limits.maxOpen || declared() > 2 * limits.maxMessageBytes)) {
    const [oldest = ""] = open.keys();
    open.delete(oldest);
    onForgotten(oldest);
  }
}

function join({ segments, totalBytes }: Partial): Uint8Array {
  const [only] = segments.values();
  if (segments.size === 1 && only?.byteLength === totalBytes) {
    return only;
  }
  const bytes = new Uint8Array(totalBytes);
  for (const [index, segment] of segments) {
    bytes.set(segment, index * segmentBytes);
  }
  return bytes;
}
