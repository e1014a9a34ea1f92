// Lossless deflate (RFC 1951) of what is already narrowed. Node 20 has no zstd, and the packages that bring it
// need a compiler on the board.
import { promisify } from "node:util";
import {
  constants,
  deflateRaw,
  deflateRawSync,
  inflateRaw,
  inflateRawSync,
  type ZlibOptions,
} from "node:zlib";
import { brokerErrors } from "../errors.ts";

/** What bytes are: text repeats itself; narrowed numbers do not, they only prefer some values. */
export type Matter = "text" | "numbers";

/** Deflated bytes, or undefined when that would save less than 5%. What takes long runs beside the event loop. */
export async function deflateIfSmaller(
  bytes: Uint8Array,
  matter: Matter,
): Promise<Uint8Array | undefined> {
  if (bytes.byteLength < smallestBytes || !isPromising(bytes, matter)) {
    return undefined;
  }
  const deflate = bytes.byteLength <= atOnceBytes ? deflateRawSync : deflateAside;
  const deflated = await deflate(bytes, settings[matter]);
  return pays(deflated, bytes) ? deflated : undefined;
}

/**
 * Searching numbers for repeats other than runs finds none and takes three times as long: on int8 activations of a language
 * model 14 ms against 4 ms for 0.7% fewer bytes, which a slow board's processor cannot spare.
 */
const settings: Readonly<Record<Matter, ZlibOptions>> = {
  text: {},
  numbers: { strategy: constants.Z_RLE },
};

/** Inflates to exactly `rawBytes`, holding no more than that; throws `ENVELOPE_INVALID`. */
export async function inflateExactly(deflated: Uint8Array, rawBytes: number): Promise<Uint8Array> {
  const raw = await inflated(deflated, rawBytes);
  if (raw.byteLength !== rawBytes) {
    const text = `deflated bytes inflate to ${raw.byteLength}, declared were ${rawBytes}`;
    throw brokerErrors.error("ENVELOPE_INVALID", text);
  }
  return raw;
}

async function inflated(deflated: Uint8Array, rawBytes: number): Promise<Uint8Array> {
  const isSmall = Math.max(deflated.byteLength, rawBytes) <= atOnceBytes;
  const inflate = isSmall ? inflateRawSync : inflateAside;
  try {
    return await inflate(deflated, { maxOutputLength: Math.max(rawBytes, 1) });
  } catch (cause) {
    const text = `${deflated.byteLength} deflated bytes do not inflate to the declared ${rawBytes}`;
    throw brokerErrors.error("ENVELOPE_INVALID", text, { cause });
  }
}

const deflateAside: (bytes: Uint8Array, options: ZlibOptions) => Promise<Buffer> =
  promisify(deflateRaw);
const inflateAside: (bytes: Uint8Array, options: { maxOutputLength: number }) => Promise<Buffer> =
  promisify(inflateRaw);

/** Up to here the thread pool costs more than the work: 2 kB are deflated in 40 us, and in 240 us beside the event loop (x86-64, 2 cores). */
const atOnceBytes = 16 * 1024;

/** Below this a header of deflate costs more than it saves. */
const smallestBytes = 256;

/** A board should not deflate megabytes of noise to learn that it is noise: a sample from the middle tells. */
const sampleBytes = 32 * 1024;

function isPromising(bytes: Uint8Array, matter: Matter): boolean {
  if (bytes.byteLength < 8 * sampleBytes) {
    return true;
  }
  const middle = Math.floor((bytes.byteLength - sampleBytes) / 2);
  const sample = bytes.subarray(middle, middle + sampleBytes);
  return pays(deflateRawSync(sample, settings[matter]), sample);
}

function pays(deflated: Uint8Array, raw: Uint8Array): boolean {
  return deflated.byteLength < 0.95 * raw.byteLength;
}
