// One message: a small checked header and raw bytes behind it. The layout is in broker/README.md.
import { createHash } from "node:crypto";
import type { EncodedTensor } from "../../protocols/index.ts";
import { brokerErrors } from "../errors.ts";
import { type Body, bodyOf, packBody } from "./body.ts";
import { deflateIfSmaller, inflateExactly } from "./compression.ts";
import { type HeaderBody, maxHeaderBytes, packHeader, parseHeader } from "./header.ts";

/** A message with everything that says whose it is and where it belongs. */
export interface Envelope {
  readonly federation: string;
  /** Name of the task, or empty before there is one. */
  readonly task: string;
  /** From 1; 0 outside a round. */
  readonly round: number;
  readonly attempt: number;
  /** Rises per device; 0 outside a lane. */
  readonly lane: number;
  /** Id of the sending peer. */
  readonly sender: string;
  /** 16 hexadecimal digits, drawn anew by each end that sends: a restarted process has another one. */
  readonly instance: string;
  /** From 1; requests and replies of an instance are numbered apart. */
  readonly sequence: number;
  readonly kind: string;
  /** The message that this one answers. */
  readonly replyTo?: MessageReference;
  /** Instead of an answer. */
  readonly error?: WireError;
  /** Plain data, at most 64 KiB packed. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly tensors: ReadonlyMap<string, EncodedTensor>;
  /** Raw bytes by name, such as files. */
  readonly blobs: ReadonlyMap<string, Uint8Array>;
}

/** Names one message of one instance. */
export interface MessageReference {
  readonly instance: string;
  readonly sequence: number;
}

/** An error as it crosses the wire: no stack, no data. */
export interface WireError {
  readonly code: string;
  readonly message: string;
  readonly hint?: string;
}

/** Limits of one end. */
export interface EnvelopeLimits {
  /** Largest message, packed or unpacked. */
  readonly maxBytes: number;
}

/** 64 MiB: the adapters, activations and public sets of today's tasks are far below. */
export const defaultLimits: EnvelopeLimits = { maxBytes: 64 * 1024 * 1024 };

/** A message as it travels: a large body goes apart, by its hash, so that it is resumed whoever sends the message again. */
export interface PartedEnvelope {
  readonly message: Uint8Array;
  readonly body: Body | undefined;
}

/** What a message says of its body that goes apart. */
export interface BodyReference {
  readonly sha256: Uint8Array;
  readonly byteLength: number;
}

/** What can be said of a message before its body is here. */
export interface EnvelopeHead extends Pick<Envelope, "instance" | "sequence"> {
  readonly replyTo: MessageReference | undefined;
  /** Undefined when the body is in the message. */
  readonly body: BodyReference | undefined;
}

/** Bytes of an envelope in one piece; throws `ENVELOPE_INVALID` or `ENVELOPE_TOO_LARGE`. */
export async function encodeEnvelope(
  envelope: Envelope,
  limits: EnvelopeLimits = defaultLimits,
): Promise<Uint8Array> {
  return (await encodeParted(envelope, limits, Number.POSITIVE_INFINITY)).message;
}

/** An envelope whose body goes apart from `apartBytes` on; throws as `encodeEnvelope` does. */
export async function encodeParted(
  envelope: Envelope,
  limits: EnvelopeLimits = defaultLimits,
  apartBytes = 16 * 1024,
): Promise<PartedEnvelope> {
  const header = packHeader(envelope);
  const parts = [
    ...[...envelope.tensors.values()].map(({ bytes }) => bytes),
    ...envelope.blobs.values(),
  ];
  const bodyBytes = parts.reduce((total, part) => total + part.byteLength, 0);
  checkSize(preambleBytes + header.byteLength + bodyBytes + checksumBytes, limits);
  const [smallHeader, packed] = await Promise.all([
    deflateIfSmaller(header, "text"),
    packBody(envelope, parts, bodyBytes),
  ]);
  const stored = { header: smallHeader ?? header, body: packed.bytes };
  const isApart = stored.body.byteLength >= apartBytes;
  const preamble = Buffer.alloc(preambleBytes);
  preamble.write("TF", 0, "latin1");
  preamble.writeUInt8(wireVersion, 2);
  preamble.writeUInt8(
    (smallHeader ? flags.headerDeflated : 0) |
      (packed.isDeflated ? flags.bodyDeflated : 0) |
      (isApart ? flags.bodyApart : 0),
    3,
  );
  preamble.writeUInt32LE(stored.header.byteLength, 4);
  preamble.writeUInt32LE(header.byteLength, 8);
  preamble.writeUInt32LE(stored.body.byteLength, 12);
  preamble.writeUInt32LE(bodyBytes, 16);
  writeReference(preamble, 20, envelope);
  writeReference(preamble, 32, envelope.replyTo);
  const apart = isApart ? bodyOf(packed) : undefined;
  const checked = [preamble, stored.header, apart?.sha256 ?? stored.body];
  const message = Buffer.concat([...checked, checksum(checked)]);
  return { message, body: apart };
}

/** The head of a message; throws `ENVELOPE_INVALID` or `ENVELOPE_TOO_LARGE`. */
export function readHead(
  message: Uint8Array,
  limits: EnvelopeLimits = defaultLimits,
): EnvelopeHead {
  const { isBodyApart, header, body, ...references } = readPreamble(message, limits);
  checkChecksum(message);
  const { instance, sequence, replyTo } = references;
  const sha256 = message.subarray(preambleBytes + header.storedBytes).subarray(0, checksumBytes);
  const reference = isBodyApart ? { sha256, byteLength: body.storedBytes } : undefined;
  return { instance, sequence, replyTo, body: reference };
}

/** An envelope from foreign bytes, and its body if that came apart; throws `ENVELOPE_INVALID` or `ENVELOPE_TOO_LARGE`. Copies what it returns. */
export async function decodeEnvelope(
  bytes: Uint8Array,
  limits: EnvelopeLimits = defaultLimits,
  apart?: Body,
): Promise<Envelope> {
  const preamble = readPreamble(bytes, limits);
  const { isHeaderDeflated, isBodyDeflated, isBodyApart, header, body } = preamble;
  checkChecksum(bytes);
  const headerEnd = preambleBytes + header.storedBytes;
  const storedHeader = bytes.subarray(preambleBytes, headerEnd);
  const rest = bytes.subarray(headerEnd, bytes.byteLength - checksumBytes);
  const storedBody = isBodyApart ? checkApart(apart, rest, body) : rest;
  const rawHeader = isHeaderDeflated
    ? await inflateExactly(storedHeader, header.rawBytes)
    : storedHeader;
  const parsed = parseHeader(rawHeader);
  const declared = sum(parsed.tensors, parsed.blobs);
  if (declared !== body.rawBytes) {
    throw invalid(
      `the header declares ${declared} bytes of tensors, the body has ${body.rawBytes}`,
    );
  }
  const rawBody = isBodyDeflated ? await inflateExactly(storedBody, body.rawBytes) : storedBody;
  const { tensors, blobs, ...fields } = parsed;
  const { instance, sequence, replyTo } = preamble;
  const reply = replyTo === undefined ? {} : { replyTo };
  return { ...fields, instance, sequence, ...reply, ...cutBody(tensors, blobs, rawBody) };
}

/** Version of the wire format; the topics carry it too. */
export const wireVersion = 1;

const preambleBytes = 44;
const checksumBytes = 32;
const flags = { headerDeflated: 1, bodyDeflated: 2, bodyApart: 4 } as const;
const allFlags = 7;

interface Preamble {
  readonly isHeaderDeflated: boolean;
  readonly isBodyDeflated: boolean;
  readonly isBodyApart: boolean;
  readonly header: Section;
  readonly body: Section;
  readonly instance: string;
  readonly sequence: number;
  readonly replyTo: MessageReference | undefined;
}

interface Section {
  readonly storedBytes: number;
  readonly rawBytes: number;
}

/** Every declared length is checked here, before anything is allocated. */
function readPreamble(bytes: Uint8Array, limits: EnvelopeLimits): Preamble {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.byteLength < preambleBytes + checksumBytes) {
    throw invalid(`${view.byteLength} bytes are too few for an envelope`);
  }
  if (view.toString("latin1", 0, 2) !== "TF" || view[2] !== wireVersion) {
    const text = `an envelope of wire version ${wireVersion} was expected`;
    throw brokerErrors.error("ENVELOPE_INVALID", text, {
      hint: "run the same release of trifold on coordinator and devices",
    });
  }
  const bits = view.readUInt8(3);
  const header = { storedBytes: view.readUInt32LE(4), rawBytes: view.readUInt32LE(8) };
  const body = { storedBytes: view.readUInt32LE(12), rawBytes: view.readUInt32LE(16) };
  checkSize(preambleBytes + header.rawBytes + body.rawBytes + checksumBytes, limits);
  const isHeaderDeflated = (bits & flags.headerDeflated) !== 0;
  const isBodyDeflated = (bits & flags.bodyDeflated) !== 0;
  const isBodyApart = (bits & flags.bodyApart) !== 0;
  const bodyHere = isBodyApart ? checksumBytes : body.storedBytes;
  const total = preambleBytes + header.storedBytes + bodyHere + checksumBytes;
  if (
    bits > allFlags ||
    body.storedBytes > limits.maxBytes ||
    total !== view.byteLength ||
    header.rawBytes > maxHeaderBytes ||
    (!isHeaderDeflated && header.storedBytes !== header.rawBytes) ||
    (!isBodyDeflated && body.storedBytes !== body.rawBytes)
  ) {
    throw invalid(`the declared lengths do not fit ${view.byteLength} bytes`);
  }
  const { instance, sequence } = readReference(view, 20);
  const replyTo = readReference(view, 32);
  return {
    isHeaderDeflated,
    isBodyDeflated,
    isBodyApart,
    header,
    body,
    instance,
    sequence,
    replyTo: replyTo.sequence === 0 ? undefined : replyTo,
  };
}

/** Twelve bytes: instance and sequence. Outside the deflated header, so that its length depends on nothing random. */
function writeReference(target: Buffer, offset: number, reference?: MessageReference): void {
  if (reference !== undefined) {
    target.write(reference.instance, offset, "hex");
    target.writeUInt32LE(reference.sequence, offset + 8);
  }
}

function readReference(view: Buffer, offset: number): MessageReference {
  const instance = view.toString("hex", offset, offset + 8);
  return { instance, sequence: view.readUInt32LE(offset + 8) };
}

/** Copies each part out of the body, so that views over floats are aligned and the whole message can go. */
function cutBody(
  tensors: HeaderBody["tensors"],
  blobs: HeaderBody["blobs"],
  body: Uint8Array,
): Pick<Envelope, "tensors" | "blobs"> {
  let offset = 0;
  const cut = (byteLength: number) => {
    offset += byteLength;
    return Uint8Array.from(body.subarray(offset - byteLength, offset));
  };
  return {
    tensors: new Map(
      tensors.map(({ name, shape, encoding, byteLength }) => {
        return [name, { shape, encoding, bytes: cut(byteLength) }];
      }),
    ),
    blobs: new Map(blobs.map(({ name, byteLength }) => [name, cut(byteLength)])),
  };
}

function sum(...groups: readonly (readonly { readonly byteLength: number }[])[]): number {
  return groups.flat().reduce((total, { byteLength }) => total + byteLength, 0);
}

function checksum(parts: readonly Uint8Array[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) {
    hash.update(part);
  }
  return hash.digest();
}

function checkChecksum(bytes: Uint8Array): void {
  const end = bytes.byteLength - checksumBytes;
  if (!checksum([bytes.subarray(0, end)]).equals(bytes.subarray(end))) {
    throw invalid("the checksum does not match");
  }
}

/** The body, when it is the one that the message speaks of. */
function checkApart(
  body: Body | undefined,
  sha256: Uint8Array,
  { storedBytes }: Section,
): Uint8Array {
  if (body?.bytes.byteLength !== storedBytes || Buffer.compare(body.sha256, sha256) !== 0) {
    throw invalid("its body is not the one that it speaks of");
  }
  return body.bytes;
}

function checkSize(bytes: number, { maxBytes }: EnvelopeLimits): void {
  if (bytes > maxBytes) {
    const text = `a message of ${bytes} bytes exceeds the limit of ${maxBytes}`;
    throw brokerErrors.error("ENVELOPE_TOO_LARGE", text);
  }
}

function invalid(what: string): Error {
  return brokerErrors.error("ENVELOPE_INVALID", `an envelope is damaged: ${what}`);
}
