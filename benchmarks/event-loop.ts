// How long the event loop of this thread stands still while something asynchronous goes on.
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as delay } from "node:timers/promises";

/** What a job gave, and the longest stall of the event loop meanwhile. */
export interface Stall<T> {
  readonly result: T;
  /** Wall time without a turn of the loop, up to a millisecond too long; a busy machine adds to it. */
  readonly longestStallMs: number;
}

/** Runs `job` and watches the loop at a resolution of a millisecond (perf_hooks, `monitorEventLoopDelay`). */
export async function watchEventLoop<T>(job: () => Promise<T>): Promise<Stall<T>> {
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  // A stall is seen at the turn after it: the first turn begins the watch, the last ends it.
  await delay(2 * turnMs);
  histogram.reset();
  try {
    const result = await job();
    await delay(turnMs);
    return { result, longestStallMs: histogram.max / 1e6 };
  } finally {
    histogram.disable();
  }
}

/** Long enough for the histogram's own timer to fire. */
const turnMs = 5;
