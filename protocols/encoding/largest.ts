// Which values of a tensor are its largest, without sorting it: the float bits of magnitudes rise with them,
// so the smallest kept one is found digit by digit from three histograms (radix selection).

/** Indices of the `kept` largest magnitudes, rising; of equal ones the earlier are taken, and zeros never. */
export function largestIndices(data: Float32Array, kept: number): Uint32Array {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  const { magnitude, atIt } = smallestKept(bits, kept);
  const indices = new Uint32Array(kept);
  let equal = magnitude === 0 ? 0 : atIt;
  let found = 0;
  for (let i = 0; i < bits.length; i++) {
    const own = (bits[i] as number) & magnitudeMask;
    if (own < magnitude || (own === magnitude && equal-- <= 0)) continue;
    indices[found++] = i;
  }
  return indices.subarray(0, found);
}

const magnitudeMask = 0x7fffffff;

/** 31 bits from the top. */
const digits = [
  { shift: 20, size: 2 ** 11 },
  { shift: 10, size: 2 ** 10 },
  { shift: 0, size: 2 ** 10 },
];

/** Bits of the `kept`-th largest magnitude, and how many of the kept ones equal it. */
function smallestKept(bits: Uint32Array, kept: number): { magnitude: number; atIt: number } {
  let magnitude = 0;
  let atIt = kept;
  for (const { shift, size } of digits) {
    const counts = new Uint32Array(size);
    const known = magnitude >>> shift;
    const mask = shift === 20 ? 0 : -size;
    for (let i = 0; i < bits.length; i++) {
      const digit = ((bits[i] as number) & magnitudeMask) >>> shift;
      if ((digit & mask) === known)
        counts[digit & (size - 1)] = (counts[digit & (size - 1)] as number) + 1;
    }
    let digit = size - 1;
    for (; digit > 0 && (counts[digit] as number) < atIt; digit--) atIt -= counts[digit] as number;
    magnitude |= digit << shift;
  }
  return { magnitude, atIt };
}
