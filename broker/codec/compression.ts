// Lossless deflate (RFC 1951) of what is already narrowed. Node 20 has no zstd, and the packages that bring it
// need a compiler on the board.
import { promisify } from "node:util";
import { deflateRaw, deflateRawSync, inflateRaw } from "node:zlib";
import { brokerErrors } from "../errors.ts";

/** Deflated bytes, or undefined when that would save less than 5%. Runs beside the event loop. */
export async function deflateIfSmaller(bytes: Uint8Array): Promise<Uint8Array | undefined> {
  if (bytes.byteLength < smallestBytes || !isPromising(bytes)) {
    return undefined;
  }
  const deflated = await deflateAside(bytes);
  return pays(deflated, bytes) ? deflated : undefined;
}

/** Inflates to exactly `rawBytes`, holding no more than that; throws `ENVELOPE_INVALID`. */
export async function inflateExactly(deflated: Uint8Array, rawBytes: number): Promise<Uint8Array> {
  const raw = await inflateAside(deflated, { maxOutputLength: Math.max(rawBytes, 1) }).catch(
    (cause: unknown) => {
      const text = `${deflated.byteLength} deflated bytes do not inflate to the declared ${rawBytes}`;
      throw brokerErrors.error("ENVELOPE_INVALID", text, { cause });
    },
  );
  if (raw.byteLength !== rawBytes) {
    const text = `deflated bytes inflate to ${raw.byteLength}, declared were ${rawBytes}`;
    throw brokerErrors.error("ENVELOPE_INVALID", text);
  }
  return raw;
}

const deflateAside = promisify<Uint8Array, Buffer>(deflateRaw);
const inflateAside: (bytes: Uint8Array, options: { maxOutputLength: number }) => Promise<Buffer> =
  promisify(inflateRaw);

/** Below this a header of deflate and a turn of the thread pool cost more than they save. */
const smallestBytes = 256;

/** A board should not deflate megabytes of noise to learn that it is noise: a sample from the middle tells. */
const sampleBytes = 32 * 1024;

function isPromising(bytes: Uint8Array): boolean {
  if (bytes.byteLength < 8 * sampleBytes) {
    return true;
  }
  const middle = Math.floor((bytes.byteLength - sampleBytes) / 2);
  const sample = bytes.subarray(middle, middle + sampleBytes);
  return pays(deflateRawSync(sample), sample);
}

function pays(deflated: Uint8Array, raw: Uint8Array): boolean {
  return deflated.byteLength < 0.95 * raw.byteLength;
}
