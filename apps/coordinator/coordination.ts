// How much of a round is neither training nor transfer: what the federation itself costs.
import type { Payload, ServerSide } from "../../protocols/index.ts";

/** Where the seconds of a round went. */
export interface RoundSeconds {
  /** From the end of the round before until the new global model is saved. */
  readonly seconds: number;
  /** Of the coordinator's own training: distillation after the mean. */
  readonly refinementSeconds: number;
  /** What each device needed from its start message to its report, transfer and waiting for answers included, and the protocol to make that message. */
  readonly deviceSeconds: readonly number[];
}

/**
 * What is left of a round beside its slowest device and the coordinator's own training, distillation and the logits that it
 * hands out: revisions, lanes, journal, aggregation, checkpoint, a wait for the score before, and messages that start and end it. Never below 0.
 */
export function coordinationSeconds(round: RoundSeconds): number {
  const { seconds, refinementSeconds, deviceSeconds } = round;
  return Math.max(0, seconds - refinementSeconds - Math.max(0, ...deviceSeconds));
}

/** Coordinator ends whose refinements are timed. */
export interface TimedServers {
  readonly servers: ReadonlyMap<string, ServerSide<Payload, Payload>>;
  /** Of all refinements so far. */
  refinementSeconds(): number;
}

/** The same coordinator ends; `nowMs` is any steady clock. */
export function timeRefinements(
  servers: Iterable<readonly [string, ServerSide<Payload, Payload>]>,
  nowMs: () => number,
): TimedServers {
  let totalMs = 0;
  const timed = (server: ServerSide<Payload, Payload>): ServerSide<Payload, Payload> => {
    const { refine } = server;
    if (!refine) return server;
    return {
      ...server,
      refine: async (...input) => {
        const started = nowMs();
        const refined = await refine.apply(server, input);
        totalMs += nowMs() - started;
        return refined;
      },
    };
  };
  return {
    servers: new Map([...servers].map(([name, server]) => [name, timed(server)])),
    refinementSeconds: () => totalMs / 1000,
  };
}
