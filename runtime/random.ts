// Randomness that does not depend on call order: every number is a function of (key, counter), so a
// cut model, a recomputation and a repeated attempt see the same masks, shuffles and batches.

/** A stream of reproducible numbers. */
export interface RandomStream {
  /** Uniform in [0, 1), 32 bits of resolution. */
  next(): number;
  /** Uniform whole number in [0, limit). */
  below(limit: number): number;
  /** Standard normal (Box-Muller). */
  normal(): number;
  /** The items in a random order; the input stays as it is (Fisher-Yates). */
  shuffle<T>(items: readonly T[]): T[];
}

/** A stream keyed by anything that names its use, such as `(task seed, round, device, "batches")`. */
export function randomStream(...key: readonly (string | number)[]): RandomStream {
  const seed = hash(key.join("\u0000"));
  let counter = 0;
  const bits = () => mix(Math.imul(counter++, 0x9e3779b9) ^ seed.low, seed.high);
  const next = () => bits() / 2 ** 32;
  const below = (limit: number) => Math.floor(next() * limit);
  return {
    next,
    below,
    normal: () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
    shuffle: (items) => {
      const result = [...items];
      for (let i = result.length - 1; i > 0; i--) {
        const j = below(i + 1);
        [result[i], result[j]] = [
          result[j] as (typeof result)[number],
          result[i] as (typeof result)[number],
        ];
      }
      return result;
    },
  };
}

/**
 * An inverted dropout mask (Srivastava et al. 2014): each value 0 with `probability`, else 1 / (1 - probability). Value i is
 * a function of (key, i), dropped where the i-th `next()` of the stream of that key is below the probability.
 */
export function dropoutMask(
  length: number,
  probability: number,
  key: readonly (string | number)[],
): Float32Array<ArrayBuffer> {
  const { low, high } = hash(key.join("\u0000"));
  const kept = 1 / (1 - probability);
  // Bits are compared as signed numbers, 2 ** 31 less than they are unsigned: an unsigned one would not be a small
  // integer to the compiler. A step of GPT-2 draws millions, so there are no closures and no branch either.
  const limit = (Math.ceil(probability * 2 ** 32) - 2 ** 31) | 0;
  const values = new Float32Array([0, kept]);
  const mask = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const bits = finalise(finalise(Math.imul(i, 0x9e3779b9) ^ low) ^ high) ^ 0x80000000;
    mask[i] = values[Number(bits >= limit)] as number;
  }
  return mask;
}

/** Two independent 32-bit hashes of a string (FNV-1a with two offsets, then murmur3's finaliser). */
function hash(text: string): { low: number; high: number } {
  let low = 0x811c9dc5;
  let high = 0xcbf29ce4;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    low = Math.imul(low ^ code, 0x01000193);
    high = Math.imul(high ^ code, 0x01000193 + 2 * i + 0x10);
  }
  return { low: finalise(low), high: finalise(high) };
}

/** murmur3's finaliser applied twice with the second key word between: a counter-based generator of 32 bits. */
function mix(counter: number, key: number): number {
  return finalise(finalise(counter) ^ key) >>> 0;
}

function finalise(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
