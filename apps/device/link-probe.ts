// The link between a device and its broker, timed over a topic that the device both writes and reads: what
// the radio carries here and now, not what its standard promises.
import { setMaxListeners } from "node:events";
import { type Transport, type TransportMessage, topicsOf } from "../../broker/index.ts";
import type { LinkRates } from "../../devices/index.ts";

/** What is timed. */
export interface LinkProbeOptions {
  /** Connected as the device. */
  readonly transport: Transport;
  readonly federation: string;
  readonly deviceId: string;
  readonly signal: AbortSignal;
}

/** Messages that time the round trip; the shortest counts, because others waited for something. */
const pings = 5;
/** Enough for a first look at any link; doubled while it takes too short a time to tell. */
const firstBytes = 64 * 1024;
const mostBytes = 4 * 1024 * 1024;
const longEnoughMs = 100;
const chunkBytes = 16 * 1024;

/**
 * Rates and round trip to the broker and back. Sends 64 KB on a slow link and up to 8 MB on a fast one, where the
 * broker's own speed may be the limit. What comes down went up before, so a downlink faster than the uplink is
 * underrated. Rejects with the signal's reason, or when the broker's rules forbid the topic.
 */
export async function measureLink(options: LinkProbeOptions): Promise<LinkRates> {
  const { transport, federation, deviceId } = options;
  const signal = AbortSignal.any([options.signal]);
  // Every message in flight listens to it.
  setMaxListeners(0, signal);
  const topic = topicsOf(federation).device(deviceId, "probe");
  let arrived = (_message: TransportMessage) => {};
  const stop = await transport.subscribe(topic, (message) => arrived(message));
  const send = (bytes: number) => transport.publish(topic, new Uint8Array(bytes), { signal });

  /** Sends `bytes` and resolves with the moments of the last acknowledgement and the last arrival. */
  const transfer = async (bytes: number) => {
    const chunks = Math.max(1, Math.ceil(bytes / chunkBytes));
    let left = chunks;
    const echoed = new Promise<number>((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      arrived = () => {
        left -= 1;
        if (left === 0) resolve(performance.now());
      };
    });
    const started = performance.now();
    await Promise.all(Array.from({ length: chunks }, () => send(Math.min(bytes, chunkBytes))));
    const sentMs = performance.now() - started;
    return { sentMs, echoedMs: (await echoed) - started };
  };

  try {
    const times: number[] = [];
    for (let i = 0; i < pings; i++) times.push((await transfer(1)).echoedMs);
    const roundTripMs = Math.min(...times);
    for (let bytes = firstBytes; ; bytes *= 2) {
      const { sentMs, echoedMs } = await transfer(bytes);
      if (echoedMs < longEnoughMs && bytes < mostBytes) continue;
      const rate = (ms: number) => (8000 * bytes) / Math.max(ms - roundTripMs, 1);
      return {
        uplinkBitsPerSecond: rate(sentMs),
        downlinkBitsPerSecond: rate(echoedMs),
        roundTripMs,
      };
    }
  } finally {
    stop();
  }
}
