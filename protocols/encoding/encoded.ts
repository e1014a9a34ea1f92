// What an encoding yields and what travels: a shape, the name of the encoding and raw bytes. Codecs
// turn values into bytes and back and may trust their sizes; `index.ts` is the border that checks them.

/** Names of the encodings, in the order of their precision. */
export const encodingNames = ["float32", "bf16", "int8"] as const;

/** How the values of a tensor are narrowed for the wire. */
export type EncodingName = (typeof encodingNames)[number];

/** A tensor as it travels: `bytes` are little-endian and their length follows from shape, encoding and, for int8, its first byte. */
export interface EncodedTensor {
  readonly shape: readonly number[];
  readonly encoding: EncodingName;
  readonly bytes: Uint8Array;
}

/** Which values share a scale: those with the same index on this axis, or `"none"`: all of them. Only int8 has scales. */
export type ScaleAxis = number | "none";

/** One way to narrow values. Pure; the caller has checked that sizes fit and that values are finite. */
export interface ValueCodec {
  /** Bytes that a tensor of this shape takes. */
  byteLength(shape: readonly number[], axis: ScaleAxis): number;
  /** The axis that `bytes` name, or the one codecs without scales ignore; undefined when it is none of `shape`. */
  axisOf(bytes: Uint8Array, shape: readonly number[]): ScaleAxis | undefined;
  encode(data: Float32Array, shape: readonly number[], axis: ScaleAxis): Uint8Array;
  /** Always copies: a view into a received message may lie at any address. */
  decode(bytes: Uint8Array, shape: readonly number[], axis: ScaleAxis): Float32Array;
}
