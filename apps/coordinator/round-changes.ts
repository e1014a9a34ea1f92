// Waiting for a round to be decided: by what devices do, by the deadline, or by the end of the run.
import type { RoundDecision } from "../../protocols/index.ts";

/** Wakes the wait when the state may have changed. */
export interface RoundChanges {
  announce(): void;
  /** Resolves with the first decision that is not to wait; rejects with the signal's reason. */
  decision(question: Question): Promise<Exclude<RoundDecision, { kind: "wait" }>>;
}

/** What is to be decided. */
export interface Question {
  readonly decide: (deadlinePassed: boolean) => RoundDecision;
  /** The last chance to bring the state up to date; called again after each further `deadlineMs` that is waited. */
  readonly beforeDeadline: () => Promise<void>;
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
}

/** Nothing has changed yet. */
export function createRoundChanges(): RoundChanges {
  let announce = () => {};
  return {
    announce: () => announce(),
    decision: async ({ decide, beforeDeadline, deadlineMs, signal }) => {
      let deadlinePassed = false;
      const passDeadline = () => {
        deadlinePassed = true;
        announce();
      };
      const timer = setInterval(() => {
        void beforeDeadline().then(passDeadline, passDeadline);
      }, deadlineMs);
      const onAbort = () => announce();
      signal.addEventListener("abort", onAbort);
      try {
        for (;;) {
          signal.throwIfAborted();
          const changed = new Promise<void>((resolve) => {
            announce = resolve;
          });
          const decision = decide(deadlinePassed);
          if (decision.kind !== "wait") return decision;
          await changed;
        }
      } finally {
        clearInterval(timer);
        signal.removeEventListener("abort", onAbort);
      }
    },
  };
}
