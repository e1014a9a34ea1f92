// Retained messages by topic. Aedes holds every retained topic against each subscription, a thousand times a thousand while a fleet
// joins; all subscriptions of devices name one topic.
import { Readable } from "node:stream";

/** A retained message as Aedes keeps it. */
interface RetainedPacket {
  readonly topic: string;
  readonly payload: { readonly length: number };
}

/** What Aedes asks its store for retained messages with. */
export interface RetainedStore {
  storeRetained(packet: RetainedPacket, ...rest: unknown[]): unknown;
  createRetainedStreamCombi(filters: readonly string[]): Readable;
}

/** Has an empty store look topics up, and search for filters with wildcards only. */
export function indexRetained(store: RetainedStore): void {
  const byTopic = new Map<string, RetainedPacket>();
  const keep = store.storeRetained.bind(store);
  const search = store.createRetainedStreamCombi.bind(store);
  store.storeRetained = (packet, ...rest) => {
    // MQTT 3.1.1, 3.3.1.3: an empty one takes the former one away.
    if (packet.payload.length === 0) byTopic.delete(packet.topic);
    else byTopic.set(packet.topic, { ...packet });
    return keep(packet, ...rest);
  };
  store.createRetainedStreamCombi = (filters) =>
    filters.some((filter) => /[+#]/.test(filter))
      ? search(filters)
      : Readable.from(filters.flatMap((topic) => byTopic.get(topic) ?? []));
}
