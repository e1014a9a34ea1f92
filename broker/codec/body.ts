// The body of a message: bytes of tensors and files in a row, packed once for however many peers they go to.
import { createHash } from "node:crypto";
import { deflateIfSmaller } from "./compression.ts";
import type { Envelope } from "./envelope.ts";

/** Bytes that went apart, with their hash. */
export interface Body {
  readonly bytes: Uint8Array;
  readonly sha256: Uint8Array;
}

/** A body of bytes. */
export function createBody(bytes: Uint8Array): Body {
  return { bytes, sha256: createHash("sha256").update(bytes).digest() };
}

/** A body as it is stored; its hash is taken when it goes apart. */
export interface PackedBody {
  readonly bytes: Uint8Array;
  readonly isDeflated: boolean;
  body?: Body;
}

/** What goes to many peers alike, such as the global model, is packed and held once. */
const packedBodies = new WeakMap<object, Promise<PackedBody>>();

/** Smaller ones are packed faster than found. */
const worthSharingBytes = 64 * 1024;

/** Packs the tensors and files of a message, deflated where that saves. */
export function packBody(
  { tensors, blobs }: Envelope,
  parts: readonly Uint8Array[],
  bodyBytes: number,
): Promise<PackedBody> {
  const pack = async (): Promise<PackedBody> => {
    const raw = Buffer.concat(parts, bodyBytes);
    const small = await deflateIfSmaller(raw, "numbers");
    return { bytes: small ?? raw, isDeflated: small !== undefined };
  };
  if (blobs.size > 0 || bodyBytes < worthSharingBytes) {
    return pack();
  }
  const known = packedBodies.get(tensors) ?? pack();
  packedBodies.set(tensors, known);
  return known;
}

/** The packed body with its hash, taken once. */
export function bodyOf(packed: PackedBody): Body {
  packed.body ??= createBody(packed.bytes);
  return packed.body;
}
