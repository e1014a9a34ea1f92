// Waiting for a round to be decided: by what devices do, by the deadline, or by the end of the run.
import { decide, type RoundDecision, type RoundState, type Task } from "../../protocols/index.ts";

/** Wakes the wait when the state may have changed. */
export interface RoundChanges {
  announce(): void;
  /** Resolves with the first decision that is not to wait; rejects with the signal's reason. */
  decision(question: Question): Promise<Exclude<RoundDecision, { kind: "wait" }>>;
}

/** What is to be decided. */
export interface Question {
  readonly read: () => RoundState;
  /** The last chance to bring the state up to date. */
  readonly beforeDeadline: () => Promise<void>;
  readonly cohort: Pick<Task["cohort"], "minimumDevices" | "roundDeadlineMs">;
  readonly signal: AbortSignal;
}

/** Nothing has changed yet. */
export function createRoundChanges(): RoundChanges {
  let announce = () => {};
  return {
    announce: () => announce(),
    decision: async ({ read, beforeDeadline, cohort, signal }) => {
      const { minimumDevices, roundDeadlineMs } = cohort;
      let deadlinePassed = false;
      const passDeadline = () => {
        deadlinePassed = true;
        announce();
      };
      const timer = setTimeout(() => {
        void beforeDeadline().then(passDeadline, passDeadline);
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
