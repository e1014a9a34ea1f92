// bfloat16: the upper half of a float32, so the range stays and the mantissa shrinks to 8 bits.
// Preferred to float16 for gradients, whose small values float16 flushes to zero.
import { elementCount } from "../../runtime/index.ts";
import type { ValueCodec } from "./encoded.ts";

/** Two bytes a value, rounded to nearest, ties to even; relative error at most 2^-8. */
export const bf16Codec: ValueCodec = {
  byteLength: (shape) => 2 * elementCount(shape),
  axisOf: () => "none",
  encode: (data) => {
    const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
    const halves = new Uint16Array(data.length);
    for (let i = 0; i < bits.length; i++) halves[i] = roundToHalf(bits[i] as number);
    return new Uint8Array(halves.buffer);
  },
  decode: (bytes, shape) => {
    const count = elementCount(shape);
    const bits = new Uint32Array(count);
    for (let i = 0; i < count; i++) {
      bits[i] = (((bytes[2 * i + 1] as number) << 8) | (bytes[2 * i] as number)) << 16;
    }
    return new Float32Array(bits.buffer);
  },
};

/**
 * Upper half of the float32 whose bits these are, rounded to nearest, ties to even. Values between the largest bfloat16 and
 * the largest float32 would round up to infinity; they saturate.
 */
export function roundToHalf(bits: number): number {
  const rounded = (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  return (rounded & 0x7f80) === 0x7f80 ? (rounded & 0x8000) | 0x7f7f : rounded;
}
