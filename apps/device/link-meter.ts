// What a round took of the link.
import type { Link, TrafficSide, Transport } from "../../broker/index.ts";

/** Readings of the link so far. */
export interface LinkReading {
  readonly uplinkBytes: number;
  readonly downlinkBytes: number;
  readonly repeatedBytes: number;
}

/** Bytes of the PUBLISH packets of the link, as the connection saw them. */
export function readLink({
  transport,
  link,
}: {
  readonly transport: Transport;
  readonly link: Link;
}): LinkReading {
  const { sent, received } = transport.traffic.read();
  const bytes = (side: TrafficSide) => side.up.bytes + side.down.bytes;
  return {
    uplinkBytes: bytes(sent),
    downlinkBytes: bytes(received),
    repeatedBytes: link.counters().repeatedBytes,
  };
}

/** Uploads below it say more of the round trip than of the rate. */
const tellingBytes = 64 * 1024;

/** Times uploads; the largest that is large enough to tell counts. */
export function uplinkMeter(bytesSent: () => number) {
  let [mostBytes, bitsPerSecond] = [tellingBytes, 0];
  return {
    time: async (send: () => Promise<void>): Promise<void> => {
      const [before, started] = [bytesSent(), performance.now()];
      await send();
      const bytes = bytesSent() - before;
      if (bytes < mostBytes) return;
      mostBytes = bytes;
      bitsPerSecond = (8000 * bytes) / Math.max(performance.now() - started, 1);
    },
    rate: () => (bitsPerSecond > 0 ? { uplinkBitsPerSecond: bitsPerSecond } : {}),
  };
}
