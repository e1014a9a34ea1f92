// How long the event loop of this thread stands still while something asynchronous goes on.

/** What a job gave, and the longest stall of the event loop meanwhile. */
export interface Stall<T> {
  readonly result: T;
  /** Wall time between two turns of the loop, about 1 ms in a loop that never stands still; a busy machine adds to it. */
  readonly longestStallMs: number;
}

/**
 * Runs `job` and watches the loop by a timer of 1 ms. Not by perf_hooks' `monitorEventLoopDelay`, which does not see
 * a stall that begins before its first tick.
 */
export async function watchEventLoop<T>(job: () => Promise<T>): Promise<Stall<T>> {
  let lastMs = performance.now();
  let longestStallMs = 0;
  const look = () => {
    const nowMs = performance.now();
    longestStallMs = Math.max(longestStallMs, nowMs - lastMs);
    lastMs = nowMs;
  };
  const timer = setInterval(look, 1);
  try {
    const result = await job();
    look();
    return { result, longestStallMs };
  } finally {
    clearInterval(timer);
  }
}
