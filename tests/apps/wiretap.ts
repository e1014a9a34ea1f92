// A TCP hop before a broker that keeps every byte, and takes apart what MQTT carried: packets, frames,
// envelopes, inflated.
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { generate, parser } from "mqtt-packet";
import { createAssembler } from "../../broker/codec/assembler.ts";
import { createBody } from "../../broker/codec/body.ts";
import { readHead } from "../../broker/codec/envelope.ts";
import { decodeFrame, type Frame } from "../../broker/codec/frames.ts";
import { decodeEnvelope, type Envelope } from "../../broker/index.ts";
import { bodyName } from "../../broker/outflow.ts";
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
  const read = createTranscript();
  const frames: TappedFrame[] = [];
  const statuses: unknown[] = [];
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true }, (near) => {
    const far = connect({ port: brokerPort, host: "127.0.0.1", noDelay: true });
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      const readBytes = createReader({
        ...read,
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
        readBytes(bytes);
        other.write(bytes);
      });
    }
  });
  const port = await listen(server);
  return {
    url: `mqtt://127.0.0.1:${port}`,
    bytes: () => Buffer.concat(chunks),
    envelopes: read.envelopes,
    messages: read.messages,
    frames: () => frames,
    statuses: () => statuses,
    next: read.next,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

/** Puts messages and the bodies that came apart together. */
function createTranscript() {
  const decoding = new Map<string, Promise<Envelope>>();
  const decoded: Envelope[] = [];
  const watchers = new Set<(envelope: Envelope) => void>();
  const bodies = new Map<string, Uint8Array>();
  const withoutBody = new Map<string, { readonly id: string; readonly bytes: Uint8Array }>();
  const onMessage = (id: string, bytes: Uint8Array): void => {
    const { body } = readHead(bytes);
    const name = body && bodyName(body.sha256);
    const apart = name === undefined ? undefined : bodies.get(name);
    if (name !== undefined && apart === undefined) {
      withoutBody.set(name, { id, bytes });
      return;
    }
    const envelope = decodeEnvelope(bytes, undefined, apart && createBody(apart));
    decoding.set(id, envelope);
    void envelope.then((whole) => {
      decoded.push(whole);
      for (const watch of [...watchers]) watch(whole);
    });
  };
  const onBody = (name: string, bytes: Uint8Array): void => {
    bodies.set(name, bytes);
    const message = withoutBody.get(name);
    withoutBody.delete(name);
    if (message) onMessage(message.id, message.bytes);
  };
  return {
    onMessage,
    onBody,
    envelopes: () => Promise.all(decoding.values()),
    messages: async () => {
      const ids = [...decoding.keys()];
      const whole = await Promise.all(decoding.values());
      return new Map(whole.map((envelope, i) => [ids[i] as string, envelope]));
    },
    next: (fits: (envelope: Envelope) => boolean): Promise<Envelope> =>
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
  };
}

/** What one direction of one connection is read for. */
interface Ears {
  readonly onMessage: (id: string, bytes: Uint8Array) => void;
  readonly onBody: (name: string, bytes: Uint8Array) => void;
  readonly onFrame: (frame: TappedFrame) => void;
  readonly onStatus: (status: unknown) => void;
}

function createReader(ears: Ears): (bytes: Buffer) => void {
  const packets = parser({ protocolVersion: 4 });
  const assembler = createAssembler({ maxMessageBytes: 64 * 1024 * 1024, maxOpen: 64 });
  const take = (frame: Frame): void => {
    if (frame.kind !== "chunk") return;
    const progress = assembler.add(frame);
    if (progress.kind !== "complete") return;
    if (frame.isBody) ears.onBody(frame.message, progress.bytes);
    else ears.onMessage(frame.message, progress.bytes);
  };
  packets.on("packet", (packet) => {
    if (packet.cmd !== "publish") return;
    const { topic, payload } = packet;
    if (topic.endsWith("/status") && payload.length > 0)
      ears.onStatus(JSON.parse(payload.toString()));
    if (!/\/(up|down)$/.test(topic)) return;
    const frame = decodeFrame(payload as Buffer);
    const way = topic.endsWith("/up") ? "up" : "down";
    const deviceId = topic.split("/").at(-2) ?? "";
    ears.onFrame({ deviceId, way, packetBytes: generate(packet).byteLength, frame });
    take(frame);
  });
  return (bytes) => void packets.parse(bytes);
}
