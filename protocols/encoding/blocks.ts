// Blocks of 64 values with a bfloat16 scale each: what int4 is made of and how topk writes what it keeps.
// A scale may be negative: whole numbers of b bits reach one further down than up, so the scale takes the
// sign that puts the block's largest magnitude on that extra one.
import { bf16Rounder, fromHalves, largestBf16, toHalves } from "./bf16.ts";

/** Whole numbers that values become, and how their scales are chosen. */
export interface Grid {
  /** Codes go from -reach to reach - 1. */
  readonly reach: number;
  /** Scales to try, as shares of the one that just reaches the block's largest magnitude; the least squared error wins, the first of equals. */
  readonly shares: readonly number[];
}

/** Values as whole multiples of their block's scale. */
export interface Blocks {
  /** Bfloat16 bits, one of each block. */
  readonly scales: Uint16Array<ArrayBuffer>;
  readonly codes: Int8Array<ArrayBuffer>;
}

/** Blocks that so many values make. */
export function blockCount(values: number): number {
  return Math.ceil(values / blockLength);
}

/**
 * Quantises finite values. Contractive while magnitudes are float32 normals: a block's largest value hardly errs, nothing errs by
 * more than itself, so |x - C(x)|^2 <= (1 - 1/65) |x|^2 whatever the values are.
 */
export function quantiseBlocks(data: Float32Array, grid: Grid): Blocks {
  const scales = new Float32Array(blockCount(data.length));
  const codes = new Int8Array(data.length);
  const toBf16 = bf16Rounder();
  for (let block = 0; block < scales.length; block++) {
    const values = data.subarray(block * blockLength, (block + 1) * blockLength);
    const scale = bestScale(values, grid, toBf16);
    scales[block] = scale;
    // A block of zeros (or of values so small that their scale vanishes) stays zero.
    const factor = scale === 0 ? 0 : 1 / scale;
    for (let i = 0; i < values.length; i++) {
      codes[block * blockLength + i] = codeOf((values[i] as number) * factor, grid.reach);
    }
  }
  return { scales: toHalves(scales), codes };
}

/** The scales of so many values, from the start of `bytes`. */
export function readScales(bytes: Uint8Array, values: number): Float32Array {
  return fromHalves(bytes, blockCount(values));
}

/** The block that a value belongs to. */
export function blockOf(index: number): number {
  return Math.floor(index / blockLength);
}

const blockLength = 64;

function bestScale(values: Float32Array, grid: Grid, toBf16: (value: number) => number): number {
  const widest = widestScale(values, grid.reach);
  let best = 0;
  let least = Number.POSITIVE_INFINITY;
  for (const share of grid.shares) {
    const scale = toBf16(widest * share);
    const error = grid.shares.length === 1 ? 0 : squaredError(values, scale, grid.reach);
    if (error < least) {
      best = scale;
      least = error;
    }
  }
  return best;
}

/** The scale that puts the largest magnitude, the first of equals, on -reach. */
function widestScale(values: Float32Array, reach: number): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) {
    if (Math.abs(values[i] as number) > Math.abs(most)) most = values[i] as number;
  }
  // Beyond, the largest value would decode to infinity.
  const limit = largestBf16 / reach;
  return Math.max(-limit, Math.min(limit, -most / reach));
}

function squaredError(values: Float32Array, scale: number, reach: number): number {
  const factor = scale === 0 ? 0 : 1 / scale;
  let sum = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    const error = value - codeOf(value * factor, reach) * scale;
    sum += error * error;
  }
  return sum;
}

// Adding and taking away 1.5 * 2^52 rounds a float64 to a whole number, ties to even, four times as fast as Math.round.
const roundingBias = 1.5 * 2 ** 52;

function codeOf(scaled: number, reach: number): number {
  const code = scaled + roundingBias - roundingBias;
  // Half the time of Math.min and Math.max, and values pass here three times.
  if (code < -reach) return -reach;
  return code < reach ? code : reach - 1;
}
