// What fetching parts of a model takes of the connection outside of lanes, for the next round's report.
import type { Transport } from "../../broker/index.ts";

/** Counts PUBLISH bytes of both directions. */
export interface FetchMeter {
  /** Counts what passes while `work` goes on. */
  count<T>(work: () => Promise<T>): Promise<T>;
  /** What was counted since the last call. */
  take(): number;
}

/** A meter at zero. */
export function createFetchMeter({ traffic }: Pick<Transport, "traffic">): FetchMeter {
  let counted = 0;
  const passed = (): number => {
    const { sent, received } = traffic.read();
    const sides = [sent.up, sent.down, received.up, received.down];
    return sides.reduce((sum, { bytes }) => sum + bytes, 0);
  };
  return {
    count: async (work) => {
      const before = passed();
      try {
        return await work();
      } finally {
        counted += passed() - before;
      }
    },
    take: () => {
      const bytes = counted;
      counted = 0;
      return bytes;
    },
  };
}
