// Which requests of one peer process were seen, and the answers to the last of them: a request that comes
// again is never processed again.
import type { Sending } from "./outflow.ts";

/** What is known of a request. */
export type RequestState =
  | { readonly kind: "new" | "in progress" | "forgotten" }
  | { readonly kind: "answered"; readonly answer: Sending };

/** Requests of one peer process by sequence. */
export interface Handled {
  look(sequence: number): RequestState;
  /** Requests in progress and answers that the peer does not have yet. */
  pending(): number;
  begin(sequence: number): void;
  answer(sequence: number, answer: Sending): void;
  /** The peer is another process: its sequences start over. */
  clear(): void;
}

/** Keeps the last `maxAnswers` answers, and older ones that the peer does not have yet. */
export function createHandled(maxAnswers: number): Handled {
  const inProgress = new Set<number>();
  const answers = new Map<number, Sending>();
  // Every sequence up to `prefix` was handled, and those in `beyond`; requests may overtake each other.
  const beyond = new Set<number>();
  let prefix = 0;
  const isHandled = (sequence: number) => sequence <= prefix || beyond.has(sequence);
  return {
    pending: () => inProgress.size + [...answers.values()].filter(isUnderWay).length,
    look: (sequence) => {
      const answer = answers.get(sequence);
      if (answer !== undefined) {
        return { kind: "answered", answer };
      }
      if (inProgress.has(sequence)) {
        return { kind: "in progress" };
      }
      return { kind: isHandled(sequence) ? "forgotten" : "new" };
    },
    begin: (sequence) => {
      inProgress.add(sequence);
      beyond.add(sequence);
      while (beyond.delete(prefix + 1) || beyond.size > maxBeyond) {
        prefix += 1;
      }
    },
    answer: (sequence, answer) => {
      inProgress.delete(sequence);
      answers.set(sequence, answer);
      const surplus = [...answers].slice(0, Math.max(0, answers.size - maxAnswers));
      for (const [old, sending] of surplus) {
        if (sending.isDelivered) {
          sending.cancel();
          answers.delete(old);
        }
      }
    },
    clear: () => {
      for (const answer of answers.values()) {
        answer.cancel();
      }
      inProgress.clear();
      answers.clear();
      beyond.clear();
      prefix = 0;
    },
  };
}

function isUnderWay(answer: Sending): boolean {
  return !answer.isDelivered;
}

/** A peer that leaves gaps makes this end remember single sequences, but not more than this. */
const maxBeyond = 4096;
