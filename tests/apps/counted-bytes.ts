// What passed between a device and its broker in the spans that the device's reports cover, counted from the packets.
import type { Frame } from "../../broker/codec/frames.ts";
import type { TappedFrame, Wiretap } from "./wiretap.ts";

/** Bytes of PUBLISH packets by way. */
export interface CountedBytes {
  readonly up: number;
  readonly down: number;
}

/**
 * Counts from the word that the device is ready to its last report, without the exchange of the reports themselves: a
 * report cannot hold its own bytes.
 */
export async function countedBytes(tap: Wiretap, deviceId: string): Promise<CountedBytes> {
  const messages = await tap.messages();
  const envelopeOf = (frame: Frame) =>
    frame.kind === "chunk" ? messages.get(frame.message) : undefined;
  const counter = createCounter();
  let reply = { to: 0, id: "" };
  for (const passed of tap.frames().filter((frame) => frame.deviceId === deviceId)) {
    const { way, frame } = passed;
    const envelope = envelopeOf(frame);
    const sent = way === "up" ? envelope?.kind : undefined;
    if (sent === "ready") counter.begin("up", "down");
    if (sent === "report") {
      counter.settle();
      reply = { to: envelope?.sequence ?? 0, id: "" };
    }
    counter.add(passed);
    if (frame.kind === "chunk" && way === "down" && envelope?.replyTo?.sequence === reply.to) {
      reply = { to: 0, id: frame.message };
      counter.begin("down");
    }
    // The device says that it has the reply before it reads it.
    if (frame.kind === "state" && way === "up" && frame.message === reply.id) counter.begin("up");
  }
  return counter.total;
}

type Way = keyof CountedBytes;

/** Adds up each way where it is open; what a report does not settle counts nothing. */
function createCounter() {
  const total = { up: 0, down: 0 };
  const open = new Map<Way, number>();
  return {
    total,
    begin: (...ways: readonly Way[]): void => {
      for (const way of ways) open.set(way, 0);
    },
    add: ({ way, packetBytes }: TappedFrame): void => {
      const sum = open.get(way);
      if (sum !== undefined) open.set(way, sum + packetBytes);
    },
    settle: (): void => {
      for (const [way, sum] of open) total[way] += sum;
      open.clear();
    },
  };
}
