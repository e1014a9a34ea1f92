// Messages travel in frames no larger than a stock broker's limit. Each chunk says all it takes to place and check it, so
// chunks may come doubled, in any order and in any size: a message is a row of units, a chunk is a run of them.
import { crc32 } from "node:zlib";
import { brokerErrors } from "../errors.ts";

/** What travels in one PUBLISH. */
export type Frame = ChunkFrame | StateFrame | ProbeFrame | DropFrame | HelloFrame;

/** A piece of a message. */
export interface ChunkFrame {
  readonly kind: "chunk";
  /** 16 hexadecimal digits: who sends. */
  readonly instance: string;
  /** 16 hexadecimal digits: which message. A body's are the first of its sha256, a message's own are random. */
  readonly message: string;
  /** Whether it is of a body, which outlives the process that sends it. */
  readonly isBody: boolean;
  /** Where the payload begins: a multiple of `unitBytes`. */
  readonly offset: number;
  readonly totalBytes: number;
  /** Whole units, or up to the message's end. */
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
  /** Bit i, lowest first, is set when unit i is here. Zeros at the end are left out. */
  readonly units: Uint8Array;
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

/** What is counted, reported and resumed: small enough for a link of 100 kbit/s, and 64 MiB of them take a report of 2 KiB. */
export const unitBytes = 4096;

/** Bytes of a chunk's frame beside its payload. */
export const chunkOverheadBytes = 31;

/** Bytes of a frame, little-endian, its CRC-32 at the end. */
export function encodeFrame(frame: Frame): Uint8Array {
  const parts = partsOf(frame);
  const length = parts.reduce((total, part) => total + part.byteLength, headBytes + crcBytes);
  const bytes = Buffer.allocUnsafe(length);
  bytes.writeUInt8(frameVersion, 0);
  bytes.writeUInt8(frameTypes[frame.kind], 1);
  bytes.write(frame.instance, 2, "hex");
  bytes.write(frame.kind === "hello" ? noMessage : frame.message, 10, "hex");
  let offset = headBytes;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.byteLength;
  }
  bytes.writeUInt32LE(crc32(bytes.subarray(0, offset)), offset);
  return bytes;
}

/** A frame from foreign bytes; throws `ENVELOPE_INVALID`. Its payload is a view. */
export function decodeFrame(source: Uint8Array): Frame {
  const bytes = Buffer.from(source.buffer, source.byteOffset, source.byteLength);
  const kind = frameKinds.get(bytes[1] ?? 0);
  const end = bytes.byteLength - crcBytes;
  if (end < headBytes || bytes[0] !== frameVersion || kind === undefined) {
    throw invalid(`${bytes.byteLength} bytes are not a frame of version ${frameVersion}`);
  }
  if (crc32(bytes.subarray(0, end)) !== bytes.readUInt32LE(end)) {
    throw invalid("its CRC-32 does not match");
  }
  const instance = bytes.toString("hex", 2, 10);
  const message = bytes.toString("hex", 10, headBytes);
  const rest = bytes.subarray(headBytes, end);
  if (kind === "chunk") {
    return decodeChunk(rest, instance, message);
  }
  if (kind === "state") {
    const isComplete = need(rest, 5).readUInt8(0) === 1;
    const probe = rest.readUInt32LE(1);
    return { kind, instance, message, isComplete, probe, units: rest.subarray(5) };
  }
  if (kind === "probe") {
    return { kind, instance, message, probe: need(rest, 4).readUInt32LE(0) };
  }
  return kind === "hello" ? { kind, instance } : { kind, instance, message };
}

/** Number of units of so many bytes. */
export function unitCount(totalBytes: number): number {
  return Math.ceil(totalBytes / unitBytes);
}

/** Whether a bit of a state's `units` is set. */
export function hasUnit(units: Uint8Array, unit: number): boolean {
  return ((units[unit >> 3] ?? 0) & (1 << (unit & 7))) !== 0;
}

const frameVersion = 0xf2;
const headBytes = 18;
const crcBytes = 4;
const noMessage = "0".repeat(16);
const frameTypes = { chunk: 1, state: 2, probe: 3, hello: 4, drop: 5 } as const;
const frameKinds = new Map(
  Object.entries(frameTypes).map(([kind, type]) => [type as number, kind as Frame["kind"]]),
);

function partsOf(frame: Frame): readonly Uint8Array[] {
  switch (frame.kind) {
    case "chunk":
      return [
        Uint8Array.of(frame.isBody ? 1 : 0),
        uint32s(frame.offset, frame.totalBytes),
        frame.payload,
      ];
    case "state":
      return [Uint8Array.of(frame.isComplete ? 1 : 0), uint32s(frame.probe), frame.units];
    case "probe":
      return [uint32s(frame.probe)];
    default:
      return [];
  }
}

function decodeChunk(rest: Buffer, instance: string, message: string): ChunkFrame {
  const isBody = need(rest, 10).readUInt8(0) === 1;
  const offset = rest.readUInt32LE(1);
  const totalBytes = rest.readUInt32LE(5);
  const payload = rest.subarray(9);
  const end = offset + payload.byteLength;
  const isWhole = end === totalBytes || (end < totalBytes && end % unitBytes === 0);
  if (offset % unitBytes !== 0 || !isWhole) {
    throw invalid(
      `${payload.byteLength} bytes at ${offset} of ${totalBytes} are not units of ${unitBytes}`,
    );
  }
  return { kind: "chunk", instance, message, isBody, offset, totalBytes, payload };
}

function need(bytes: Buffer, length: number): Buffer {
  if (bytes.byteLength < length) {
    throw invalid(`${bytes.byteLength} of at least ${length} bytes`);
  }
  return bytes;
}

function uint32s(...values: readonly number[]): Uint8Array {
  const bytes = Buffer.allocUnsafe(4 * values.length);
  values.forEach((value, i) => {
    bytes.writeUInt32LE(value, 4 * i);
  });
  return bytes;
}

function invalid(what: string): Error {
  return brokerErrors.error("ENVELOPE_INVALID", `a frame is malformed: ${what}`);
}
