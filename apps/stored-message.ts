// Messages on a disk: envelopes, as on the wire, of no federation or process.
import { decodeEnvelope, encodeEnvelope } from "../broker/index.ts";
import type { Payload } from "../protocols/index.ts";

/** A message as bytes. */
export function encodeStored(
  { kind, fields, tensors, blobs = new Map() }: Payload,
  { sender, sequence }: { readonly sender: string; readonly sequence: number },
): Promise<Uint8Array> {
  const nowhere = { federation: "journal", task: "", round: 0, attempt: 0, lane: 0 };
  const instance = "0".repeat(16);
  return encodeEnvelope({ ...nowhere, sender, instance, sequence, kind, fields, tensors, blobs });
}

/** The message of `encodeStored`; throws as `decodeEnvelope` does. */
export async function decodeStored(bytes: Uint8Array): Promise<Payload> {
  const { kind, fields, tensors, blobs } = await decodeEnvelope(bytes);
  return { kind, fields, tensors, blobs };
}
