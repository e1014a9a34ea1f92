// What an encoding yields and what travels: a shape, the name of the encoding and raw bytes.

/** Names of the encodings, in the order of their precision. */
export const encodingNames = ["float32", "bf16", "int8"] as const;

/** How the values of a tensor are narrowed for the wire. */
export type EncodingName = (typeof encodingNames)[number];

/** A tensor as it travels: `bytes` are little-endian and their length follows from shape and encoding. */
export interface EncodedTensor {
  readonly shape: readonly number[];
  readonly encoding: EncodingName;
  readonly bytes: Uint8Array;
}
