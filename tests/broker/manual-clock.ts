import type { Clock } from "../../broker/index.ts";

/** A clock that stands until it is moved. */
export interface ManualClock extends Clock {
  /** Moves time on and calls the timers that fall due, in order. */
  advance(ms: number): void;
}

/** A clock at zero. */
export function createManualClock(): ManualClock {
  const timers = new Set<{ readonly atMs: number; readonly callback: () => void }>();
  let nowMs = 0;
  return {
    now: () => nowMs,
    after: (delayMs, callback) => {
      const timer = { atMs: nowMs + delayMs, callback };
      timers.add(timer);
      return () => {
        timers.delete(timer);
      };
    },
    advance: (ms) => {
      const endMs = nowMs + ms;
      for (;;) {
        const due = [...timers].filter((timer) => timer.atMs <= endMs);
        const [next] = due.sort((a, b) => a.atMs - b.atMs);
        if (next === undefined) {
          break;
        }
        timers.delete(next);
        nowMs = next.atMs;
        next.callback();
      }
      nowMs = endMs;
    },
  };
}
