// bfloat16: the upper half of a float32, so the range stays and the mantissa shrinks to 8 bits.
// Preferred to float16 for gradients, whose small values float16 flushes to zero.
import { elementCount } from "../../runtime/index.ts";
import { lengthProblem, type ValueCodec } from "./encoded.ts";

/** Two bytes a value, rounded to nearest, ties to even; relative error at most 2^-8. */
export const bf16Codec: ValueCodec = {
  byteLength: (shape) => 2 * elementCount(shape),
  encode: (data) => new Uint8Array(toHalves(data).buffer),
  decode: (bytes, shape) => {
    const count = elementCount(shape);
    return lengthProblem(bytes, 2 * count) ?? fromHalves(bytes, count);
  },
};

/** Largest finite bfloat16. */
export const largestBf16 = 255 * 2 ** 120;

/** The upper halves of finite values, rounded to nearest. */
export function toHalves(data: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  const halves = new Uint16Array(data.length);
  for (let i = 0; i < bits.length; i++) halves[i] = roundToHalf(bits[i] as number);
  return halves;
}

/** The values of the first `count` halves in `bytes`, at any address. */
export function fromHalves(bytes: Uint8Array, count: number): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    bits[i] = (((bytes[2 * i + 1] as number) << 8) | (bytes[2 * i] as number)) << 16;
  }
  return new Float32Array(bits.buffer);
}

/** Rounds one finite value after the other to bfloat16. */
export function bf16Rounder(): (value: number) => number {
  const word = new Float32Array(1);
  const bits = new Uint32Array(word.buffer);
  return (value) => {
    word[0] = value;
    bits[0] = roundToHalf(bits[0] as number) << 16;
    return word[0] as number;
  };
}

// Values between the largest bfloat16 and the largest float32 would round up to infinity; they saturate.
function roundToHalf(bits: number): number {
  const rounded = (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  return (rounded & 0x7f80) === 0x7f80 ? (rounded & 0x8000) | 0x7f7f : rounded;
}
