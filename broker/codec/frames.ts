// Envelopes travel in frames no larger than a stock broker's limit. Each chunk says all it takes to place and
// check it, so chunks may come doubled or in any order.
import { brokerErrors } from "../errors.ts";

/** What travels in one PUBLISH. */
export type Frame = ChunkFrame | StateFrame | ProbeFrame | DropFrame | HelloFrame;

/** A piece of a message. All but the last hold `chunkBytes`. */
export interface ChunkFrame {
  readonly kind: "chunk";
  /** 16 hexadecimal digits: who sends. */
  readonly instance: string;
  /** 16 hexadecimal digits, random: which message. */
  readonly message: string;
  readonly index: number;
  readonly chunkBytes: number;
  readonly totalBytes: number;
  readonly payload: Uint8Array;
}

/** What the receiver of a message has of it. */
export interface StateFrame {
  readonly kind: "state";
  readonly instance: string;
  readonly message: string;
  readonly isComplete: boolean;
  /** Number of the probe that this answers: chunks sent before it that are missing here are lost. 0: none. */
  readonly probe: number;
  /** Bit i, lowest first, is set when chunk i is here. */
  readonly chunks: Uint8Array;
}

/** Asks for the state of a message. */
export interface ProbeFrame {
  readonly kind: "probe";
  readonly instance: string;
  readonly message: string;
  /** From 1, counted per message. */
  readonly probe: number;
}

/** Withdraws a message. */
export interface DropFrame {
  readonly kind: "drop";
  readonly instance: string;
  readonly message: string;
}

/** Says that this end listens (again). */
export interface HelloFrame {
  readonly kind: "hello";
  readonly instance: string;
}

/** Bytes before a chunk's payload. */
const chunkHeaderBytes = 30;

/** Smallest chunk of a message that needs several: bounds their number. */
const minChunkBytes = 512;

/** Bytes of a frame, little-endian. */
export function encodeFrame(frame: Frame): Uint8Array {
  const payload = payloadOf(frame);
  const headBytes = frame.kind === "chunk" ? chunkHeaderBytes : 18;
  const bytes = Buffer.alloc(headBytes + payload.byteLength);
  bytes.writeUInt8(frameVersion, 0);
  bytes.writeUInt8(frameTypes[frame.kind], 1);
  bytes.write(frame.instance, 2, "hex");
  if (frame.kind !== "hello") {
    bytes.write(frame.message, 10, "hex");
  }
  if (frame.kind === "chunk") {
    bytes.writeUInt32LE(frame.index, 18);
    bytes.writeUInt32LE(frame.chunkBytes, 22);
    bytes.writeUInt32LE(frame.totalBytes, 26);
  }
  bytes.set(payload, headBytes);
  return bytes;
}

/** A frame from foreign bytes; throws `ENVELOPE_INVALID`. Its payload is a view. */
export function decodeFrame(source: Uint8Array): Frame {
  const bytes = Buffer.from(source.buffer, source.byteOffset, source.byteLength);
  const kind = frameKinds.get(bytes[1] ?? 0);
  if (bytes.byteLength < 18 || bytes[0] !== frameVersion || kind === undefined) {
    throw invalid(`${bytes.byteLength} bytes are not a frame of version ${frameVersion}`);
  }
  const instance = bytes.toString("hex", 2, 10);
  const message = bytes.toString("hex", 10, 18);
  if (kind === "chunk") {
    return decodeChunk(bytes, instance, message);
  }
  if (kind === "state") {
    const isComplete = need(bytes, 23).readUInt8(18) === 1;
    const probe = bytes.readUInt32LE(19);
    return { kind, instance, message, isComplete, probe, chunks: bytes.subarray(23) };
  }
  if (kind === "probe") {
    return { kind, instance, message, probe: need(bytes, 22).readUInt32LE(18) };
  }
  return kind === "hello" ? { kind, instance } : { kind, instance, message };
}

/** Number of chunks of a message. */
export function chunkCount(totalBytes: number, chunkBytes: number): number {
  return Math.ceil(totalBytes / chunkBytes);
}

const frameVersion = 0xf1;
const frameTypes = { chunk: 1, state: 2, probe: 3, hello: 4, drop: 5 } as const;
const frameKinds = new Map(
  Object.entries(frameTypes).map(([kind, type]) => [type as number, kind as Frame["kind"]]),
);

function payloadOf(frame: Frame): Uint8Array {
  if (frame.kind === "chunk") {
    return frame.payload;
  }
  if (frame.kind === "state") {
    return Buffer.concat([
      Uint8Array.of(frame.isComplete ? 1 : 0),
      uint32(frame.probe),
      frame.chunks,
    ]);
  }
  if (frame.kind === "probe") {
    return uint32(frame.probe);
  }
  return new Uint8Array(0);
}

function decodeChunk(bytes: Buffer, instance: string, message: string): ChunkFrame {
  const index = need(bytes, chunkHeaderBytes + 1).readUInt32LE(18);
  const chunkBytes = bytes.readUInt32LE(22);
  const totalBytes = bytes.readUInt32LE(26);
  const payload = bytes.subarray(chunkHeaderBytes);
  const offset = index * chunkBytes;
  const isSmall = chunkBytes < minChunkBytes && totalBytes > chunkBytes;
  if (isSmall || payload.byteLength !== Math.min(chunkBytes, totalBytes - offset)) {
    throw invalid(
      `chunk ${index} of ${payload.byteLength} bytes does not fit ${totalBytes} bytes cut every ${chunkBytes}`,
    );
  }
  return { kind: "chunk", instance, message, index, chunkBytes, totalBytes, payload };
}

function need(bytes: Buffer, length: number): Buffer {
  if (bytes.byteLength < length) {
    throw invalid(`${bytes.byteLength} of at least ${length} bytes`);
  }
  return bytes;
}

function uint32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function invalid(what: string): Error {
  return brokerErrors.error("ENVELOPE_INVALID", `a frame is malformed: ${what}`);
}
