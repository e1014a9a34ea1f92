// Repeated runs in figures: mean, spread and the interval that holds the true mean in 95 of 100 repetitions.

/** Of values measured under several seeds. */
export interface Estimate {
  readonly mean: number;
  /** Sample standard deviation, n - 1 in the denominator; 0 for one value, which tells no spread. */
  readonly std: number;
  /** Of the mean, by Student's t; null for one value. */
  readonly interval95: { readonly low: number; readonly high: number } | null;
}

/** Mean, spread and interval of at least one value. */
export function estimateOf(values: readonly number[]): Estimate {
  const mean = meanOf(values);
  if (values.length < 2) return { mean, std: 0, interval95: null };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const std = Math.sqrt(squares / (values.length - 1));
  const half = (studentT975(values.length - 1) * std) / Math.sqrt(values.length);
  return { mean, std, interval95: { low: mean - half, high: mean + half } };
}

/** Estimate of the differences of values that belong together: run under the same seed. */
export function pairedDifference(values: readonly number[], others: readonly number[]): Estimate {
  return estimateOf(values.map((value, i) => value - (others[i] as number)));
}

/** Whether an interval excludes zero: what was paired is told apart. */
export function excludesZero({ interval95 }: Estimate): boolean {
  return interval95 !== null && (interval95.low > 0 || interval95.high < 0);
}

/** NaN for no values. */
export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** 0.975 quantile of Student's t; above 30 degrees of freedom that of 30, at most 4 % too wide. */
function studentT975(degrees: number): number {
  return quantiles[Math.min(degrees, quantiles.length) - 1] as number;
}

/** NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2. */
const quantiles = [
  ...[12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228],
  ...[2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086],
  ...[2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042],
];
