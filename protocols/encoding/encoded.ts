// What an encoding yields and what travels: a shape, the name of the encoding and raw bytes. Codecs
// turn values into bytes and back; `index.ts` is the border that checks shapes, axes and finiteness.

/** Names of the encodings, in the order of their precision; topk alone drops values. */
export const encodingNames = ["float32", "bf16", "int8", "int4", "topk"] as const;

/** How the values of a tensor are narrowed for the wire. */
export type EncodingName = (typeof encodingNames)[number];

/** Encodings that keep every value: for what has no error feedback, where a dropped value is lost for good. */
export const denseEncodingNames = ["float32", "bf16", "int8", "int4"] as const;

/** A tensor as it travels: `bytes` are little-endian and, with the shape, say all that decoding needs. */
export interface EncodedTensor {
  readonly shape: readonly number[];
  readonly encoding: EncodingName;
  readonly bytes: Uint8Array;
}

/** Which values share a scale: those with the same index on this axis, or `"none"`: all of them. Only int8 has such scales. */
export type ScaleAxis = number | "none";

/** What codecs are told beside the values; each reads its own. */
export interface CodecSettings {
  /** int8: values with the same index on it share a scale. */
  readonly axis: ScaleAxis;
  /** int8: share of each channel's values that travels apart. */
  readonly outliers: number;
  /** topk: share of the values that is kept. */
  readonly keepFraction: number;
}

/** One way to narrow values. Pure. */
export interface ValueCodec {
  /** Bytes that a tensor of this shape takes: exactly where all of its values travel, at most where some are dropped. */
  byteLength(shape: readonly number[], settings: CodecSettings): number;
  /** The caller has checked that the values fill the shape and are finite. */
  encode(data: Float32Array, shape: readonly number[], settings: CodecSettings): Uint8Array;
  /**
   * The values, or in words why foreign bytes do not fit the shape; nothing is allocated before they are known to.
   * Always copies: a view into a received message may lie at any address.
   */
  decode(bytes: Uint8Array, shape: readonly number[]): Float32Array | string;
}

/** What to say of bytes of the wrong length; undefined when it is right. */
export function lengthProblem(bytes: Uint8Array, expected: number): string | undefined {
  return bytes.length === expected ? undefined : `needs ${expected} bytes, got ${bytes.length}`;
}
