// A change narrowed to what matters: the fewest values that bring a row near enough, as topk sends them.

/**
 * The change with all but its largest magnitudes zero: as many are kept as leave a rest of a norm (L2) of at most
 * `rest`. Of equal magnitudes all are kept.
 */
export function largestPart(change: Float32Array, rest: number): Float32Array {
  const rising = change.map(Math.abs).sort();
  let dropped = 0;
  let least = Number.POSITIVE_INFINITY;
  for (const magnitude of rising) {
    dropped += magnitude * magnitude;
    if (dropped > rest * rest) {
      least = magnitude;
      break;
    }
  }
  return change.map((value) => (Math.abs(value) < least ? 0 : value));
}

/** Share of the values that are not zero; at least what one value is of all. */
export function nonZeroShare(values: Float32Array): number {
  const count = values.reduce((sum, value) => sum + (value === 0 ? 0 : 1), 0);
  return Math.max(1, count) / values.length;
}
