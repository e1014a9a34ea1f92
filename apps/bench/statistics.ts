// Figures of repeated measurements.

/** Middle of the sorted values, and half the distance between their quartiles. */
export function summarise(values: readonly number[]): {
  readonly median: number;
  readonly spread: number;
} {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => {
    const place = share * (sorted.length - 1);
    const low = sorted[Math.floor(place)] as number;
    const high = sorted[Math.ceil(place)] as number;
    return low + (high - low) * (place - Math.floor(place));
  };
  return { median: at(0.5), spread: (at(0.75) - at(0.25)) / 2 };
}

/** Ratios of values that were measured next to each other. */
export function pairedRatios(above: readonly number[], below: readonly number[]): number[] {
  return above.map((value, i) => value / (below[i] as number));
}
