// The 16-bit floats of checkpoints: IEEE binary16 (F16) and bfloat16 (BF16), to and from float32.

/** float32 values of IEEE binary16 bit patterns; exact, because every binary16 is a float32. */
export function decodeFloat16(bits: Uint16Array): Float32Array {
  float16Table ??= buildFloat16Table();
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = float16Table[bits[i] as number] as number;
  return values;
}

/** float32 values of bfloat16 bit patterns, which are the upper halves of float32 ones; exact. */
export function decodeBfloat16(bits: Uint16Array): Float32Array {
  const patterns = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) patterns[i] = (bits[i] as number) << 16;
  return new Float32Array(patterns.buffer);
}

/** Nearest IEEE binary16 patterns, ties to even; what is beyond 65,504 becomes infinite. */
export function encodeFloat16(values: Float32Array): Uint16Array {
  const patterns = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = float16Bits(patterns[i] as number);
  return bits;
}

let float16Table: Float32Array | undefined;

function buildFloat16Table(): Float32Array {
  return Float32Array.from({ length: 0x10000 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1024 + fraction) * 2 ** (exponent - 25);
  });
}

function float16Bits(pattern: number): number {
  const sign = (pattern >>> 16) & 0x8000;
  const magnitude = pattern & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN
  // From 65,520 on, the nearest binary16 is infinite.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) return sign | subnormalBits(magnitude);
  // The bias falls from 127 to 15; a carry out of the fraction rightly raises the exponent.
  return sign | roundShift(magnitude - (112 << 23), 13);
}

/** Below 2^-14 a binary16 counts units of 2^-24: shift the full significand there. */
function subnormalBits(magnitude: number): number {
  const shift = 126 - (magnitude >>> 23);
  if (shift > 24) return 0;
  return roundShift((magnitude & 0x7fffff) | 0x800000, shift);
}

/** `value >> shift`, rounded to nearest, ties to even. */
function roundShift(value: number, shift: number): number {
  const kept = value >>> shift;
  const rest = value & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return rest > half || (rest === half && (kept & 1) === 1) ? kept + 1 : kept;
}
