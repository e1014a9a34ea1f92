// How the coordinator is, for the heartbeat of its status.
import type { Transport } from "../../broker/index.ts";
import { openLoadMeter } from "../../devices/index.ts";
import type { Heartbeat } from "../heartbeat.ts";
import type { Fleet } from "./fleet.ts";

/** Reads its machine's load, its queues and how many devices are ready. */
export function wellBeingOf(
  transport: Pick<Transport, "queue">,
  { ready }: Pick<Fleet, "ready">,
): () => Promise<Heartbeat> {
  const load = openLoadMeter();
  return async () => {
    const queued = transport.queue();
    const open = [...ready.values()].map(({ link }) => link.queue());
    return {
      ...(await load.read()),
      queuedMessages: queued.messages,
      queuedBytes: queued.bytes,
      openRequests: open.reduce((sum, { messages }) => sum + messages, 0),
      openRequestBytes: open.reduce((sum, { bytes }) => sum + bytes, 0),
      readyDevices: ready.size,
    };
  };
}
