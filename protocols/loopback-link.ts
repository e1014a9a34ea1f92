// A round's link without a wire: for tests of protocols and for comparisons in one process.
import type { Lane, Payload, Protocol, RoundLink } from "./protocol.ts";

/** What a loopback link joins. */
export interface LoopbackOptions<Down extends Payload, Up extends Payload> {
  readonly protocol: Pick<Protocol<Down, Up>, "parseUp" | "parseDown">;
  readonly lane: Lane<Down, Up>;
  /** Aborting it rejects what waits, as a transport would. */
  readonly signal: AbortSignal;
  /** Sees every message as it travels; throwing loses it. */
  readonly observe?: (direction: "up" | "down", payload: Payload) => void;
}

/**
 * Joins a device's round to a lane: every message is copied and parsed as if it had come from afar, messages
 * of the lane are handled one at a time.
 */
export function loopbackLink<Down extends Payload, Up extends Payload>(
  options: LoopbackOptions<Down, Up>,
): RoundLink<Down, Up> {
  const { protocol, lane, signal, observe } = options;
  let last: Promise<unknown> = Promise.resolve();
  const exchange = async (up: Up): Promise<Down | undefined> => {
    observe?.("up", up);
    const answer = await lane.receive(protocol.parseUp(structuredClone<Payload>(up)), signal);
    if (!answer) return undefined;
    observe?.("down", answer);
    return protocol.parseDown(structuredClone<Payload>(answer));
  };
  const inTurn = async (up: Up): Promise<Down | undefined> => {
    signal.throwIfAborted();
    const turn = last.then(() => exchange(up));
    last = turn.catch(() => undefined);
    return unlessAborted(turn, signal);
  };
  return {
    send: async (up) => {
      await inTurn(up);
    },
    ask: async (up) => {
      const answer = await inTurn(up);
      if (!answer) throw new Error(`The lane has no answer to "${up.kind}"`);
      return answer;
    },
  };
}

/** What a promise gives, or the signal's reason as soon as it is aborted. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let stop = () => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
