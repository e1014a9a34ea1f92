// Waiting for a round to be decided: by what devices do, by the deadline, or by the end of the run.
import { decide, type RoundDecision, type RoundState, type Task } from "../../protocols/index.ts";

/** Wakes the wait when the state may have changed. */
export interface RoundChanges {
  announce(): void;
  /** Resolves with the first decision that is not to wait; rejects with the signal's reason. */
  decision(
    read: () => RoundState,
    cohort: Task["cohort"],
    signal: AbortSignal,
  ): Promise<Exclude<RoundDecision, { kind: "wait" }>>;
}

/** Nothing has changed yet. */
export function createRoundChanges(): RoundChanges {
  let announce = () => {};
  return {
    announce: () => announce(),
    decision: async (read, { minimumDevices, roundDeadlineMs }, signal) => {
      let deadlinePassed = false;
      const timer = setTimeout(() => {
        deadlinePassed = true;
        announce();
      }, roundDeadlineMs);
      const onAbort = () => announce();
      signal.addEventListener("abort", onAbort);
      try {
        for (;;) {
          signal.throwIfAborted();
          const changed = new Promise<void>((resolve) => {
            announce = resolve;
          });
          const decision = decide(read(), { minimumDevices, deadlinePassed });
          if (decision.kind !== "wait") return decision;
          await changed;
        }
      } finally {
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
      }
    },
  };
}
