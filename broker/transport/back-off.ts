/** How long to wait between attempts. */
export interface BackOff {
  /** Before the second attempt. */
  readonly firstMs: number;
  readonly maxMs: number;
}

/** What a board does that shares a weak link with others. */
export const defaultBackOff: BackOff = { firstMs: 250, maxMs: 30_000 };

/** Wait after `failures` attempts (from 1): doubles, and is spread over its upper half so that boards do not return at once. */
export function backOffMs(backOff: BackOff, failures: number, random: () => number): number {
  const full = Math.min(backOff.maxMs, backOff.firstMs * 2 ** Math.min(failures - 1, 30));
  return full * (0.5 + random() / 2);
}
