// What a program's status says of its well-being from time to time, beside what it does: load, memory, heat, queues.
import { z } from "zod";
import type { Clock, Log, Presence, StatusDetails } from "../broker/index.ts";

const count = z.int().nonnegative();

/** Member `heartbeat` of a status; what a program cannot tell is absent. */
export const heartbeatSchema = z.strictObject({
  /** Share of all processors' time that was not idle since the last heartbeat, 0 to 1. */
  cpuFraction: z.number().min(0).max(1).exactOptional(),
  availableBytes: z.number().nonnegative().exactOptional(),
  totalBytes: z.number().positive().exactOptional(),
  temperatureCelsius: z.number().exactOptional(),
  throttled: z.boolean().exactOptional(),
  /** Published and not acknowledged by the broker yet. */
  queuedMessages: count,
  queuedBytes: count,
  /** Asked of the other end and not answered yet. */
  openRequests: count,
  openRequestBytes: count,
  /** Of a coordinator: devices that can take part. */
  readyDevices: count.exactOptional(),
});

/** How a program is. */
export type Heartbeat = z.output<typeof heartbeatSchema>;

/** A presence that shows a heartbeat. */
export interface BeatingPresence extends Presence {
  /** Ends the heartbeat and leaves the presence to its owner. */
  rest(): void;
}

/** What a heartbeat needs. */
export interface HeartbeatOptions {
  /** Announced already. */
  readonly presence: Presence;
  /** What its status said when it was announced. */
  readonly details: StatusDetails;
  readonly intervalMs: number;
  readonly read: () => Promise<Heartbeat>;
  readonly clock: Clock;
  readonly log: Log;
}

/** 30 s. */
export const defaultHeartbeatMs = 30_000;

/**
 * A presence whose status has a `heartbeat`, from now on and anew every `intervalMs`. Between two, updates repeat the last one.
 * While one waits for the broker no other is added; `close` ends it with the presence.
 */
export function withHeartbeat(options: HeartbeatOptions): BeatingPresence {
  const { presence, intervalMs, read, clock, log } = options;
  let { details } = options;
  let last: Heartbeat | undefined;
  let isResting = false;
  let cancel = () => {};
  const publish = () => presence.update(last ? { ...details, heartbeat: last } : details);
  const beat = async (): Promise<void> => {
    try {
      last = await read();
      if (!isResting) await publish();
    } catch (error) {
      if (!isResting) log(`heartbeat not shown: ${(error as Error).message}`);
    }
    if (!isResting) cancel = clock.after(intervalMs, () => void beat());
  };
  const rest = () => {
    isResting = true;
    cancel();
  };
  void beat();
  return {
    update: (next) => {
      details = next;
      return publish();
    },
    rest,
    close: (last) => {
      rest();
      return presence.close(last);
    },
  };
}
