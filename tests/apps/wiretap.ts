// A TCP hop before a broker that keeps every byte, and takes apart what MQTT carried: packets, frames,
// envelopes, inflated.
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { generate, parser } from "mqtt-packet";
import { createAssembler } from "../../broker/codec/assembler.ts";
import { decodeFrame, type Frame } from "../../broker/codec/frames.ts";
import { decodeEnvelope, type Envelope } from "../../broker/index.ts";
import { listen } from "../broker/network.ts";

/** A PUBLISH of a link. */
export interface TappedFrame {
  readonly deviceId: string;
  /** From the device or to it. */
  readonly way: "up" | "down";
  /** Of the whole packet. */
  readonly packetBytes: number;
  readonly frame: Frame;
}

/** A hop that listens in. */
export interface Wiretap {
  /** What clients connect to in the broker's place. */
  readonly url: string;
  /** Both directions, as they passed. */
  bytes(): Buffer;
  /** Whole messages so far, in the order in which they became whole. */
  envelopes(): Promise<readonly Envelope[]>;
  /** Whole messages so far by the id that their chunks carry. */
  messages(): Promise<ReadonlyMap<string, Envelope>>;
  /** Statuses so far, as JSON; erased ones left out. */
  statuses(): readonly unknown[];
  /** Packets of links so far, in the order in which they passed. */
  frames(): readonly TappedFrame[];
  /** Resolves with the first message, past or to come, that fits. */
  next(fits: (envelope: Envelope) => boolean): Promise<Envelope>;
  close(): Promise<void>;
}

/** Starts a hop to the broker's port on loopback. */
export async function startWiretap(brokerPort: number): Promise<Wiretap> {
  const chunks: Buffer[] = [];
  const decoding = new Map<string, Promise<Envelope>>();
  const frames: TappedFrame[] = [];
  const statuses: unknown[] = [];
  const decoded: Envelope[] = [];
  const watchers = new Set<(envelope: Envelope) => void>();
  const sockets = new Set<Socket>();
  const onMessage = (id: string, bytes: Uint8Array): void => {
    const envelope = decodeEnvelope(bytes);
    decoding.set(id, envelope);
    void envelope.then((whole) => {
      decoded.push(whole);
      for (const watch of [...watchers]) watch(whole);
    });
  };
  const server = createServer({ noDelay: true }, (near) => {
    const far = connect({ port: brokerPort, host: "127.0.0.1", noDelay: true });
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      const read = createReader({
        onMessage,
        onFrame: (frame) => frames.push(frame),
        onStatus: (status) => statuses.push(status),
      });
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.on("data", (bytes) => {
        chunks.push(bytes);
        read(bytes);
        other.write(bytes);
      });
    }
  });
  const port = await listen(server);
  return {
    url: `mqtt://127.0.0.1:${port}`,
    bytes: () => Buffer.concat(chunks),
    envelopes: () => Promise.all(decoding.values()),
    messages: async () => {
      const ids = [...decoding.keys()];
      const whole = await Promise.all(decoding.values());
      return new Map(whole.map((envelope, i) => [ids[i] as string, envelope]));
    },
    frames: () => frames,
    statuses: () => statuses,
    next: (fits) =>
      new Promise((resolve) => {
        const known = decoded.find(fits);
        const watch = (envelope: Envelope): void => {
          if (!fits(envelope)) return;
          watchers.delete(watch);
          resolve(envelope);
        };
        if (known) resolve(known);
        else watchers.add(watch);
      }),
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

/** Reads one direction of one connection. */
function createReader({
  onMessage,
  onFrame,
  onStatus,
}: {
  readonly onMessage: (id: string, bytes: Uint8Array) => void;
  readonly onFrame: (frame: TappedFrame) => void;
  readonly onStatus: (status: unknown) => void;
}): (bytes: Buffer) => void {
  const packets = parser({ protocolVersion: 4 });
  const assembler = createAssembler({ maxMessageBytes: 64 * 1024 * 1024, maxOpen: 64 });
  packets.on("packet", (packet) => {
    if (packet.cmd !== "publish") return;
    if (packet.topic.endsWith("/status") && packet.payload.length > 0)
      onStatus(JSON.parse(packet.payload.toString()));
    if (!/\/(up|down)$/.test(packet.topic)) return;
    const frame = decodeFrame(packet.payload as Buffer);
    const way = packet.topic.endsWith("/up") ? "up" : "down";
    const deviceId = packet.topic.split("/").at(-2) ?? "";
    onFrame({ deviceId, way, packetBytes: generate(packet).byteLength, frame });
    const progress = frame.kind === "chunk" ? assembler.add(frame) : undefined;
    if (frame.kind === "chunk" && progress?.kind === "complete")
      onMessage(frame.message, progress.bytes);
  });
  return (bytes) => void packets.parse(bytes);
}
