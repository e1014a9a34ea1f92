import { once } from "node:events";
import { connect as connectSocket } from "node:net";
import type { Duplex } from "node:stream";
import { generate, type Packet, parser } from "mqtt-packet";
import type { Test } from "tap";
import { createWebSocketStream, WebSocket } from "ws";

/** An MQTT client that does what a well-behaved library would not. */
export interface RawClient {
  readonly socket: Duplex;
  readonly sessionPresent: boolean;
  readonly closed: Promise<unknown>;
  send(packet: Packet): void;
  next(cmd: Packet["cmd"]): Promise<Packet>;
}

/** A connection on which nothing has been said yet, to a URL with `mqtt:` or `ws:`. */
export function openStream(url: string): Duplex {
  const { protocol, port, hostname: host } = new URL(url);
  if (protocol !== "ws:") {
    return connectSocket({ port: Number(port), host, noDelay: true });
  }
  const webSocket = new WebSocket(url, "mqtt");
  const stream = createWebSocketStream(webSocket);
  webSocket.on("close", () => stream.destroy());
  return stream;
}

/** Connects and waits for the broker's answer. */
export async function rawClient(
  t: Test,
  { url }: { readonly url: string },
  clientId: string,
  will?: { topic: string; payload: Buffer; qos: 1; retain: boolean },
  clean = true,
): Promise<RawClient> {
  const socket = openStream(url);
  t.teardown(() => socket.destroy());
  socket.on("error", () => {});
  const closed = once(socket, "close");
  const reader = parser({ protocolVersion: 4 });
  const packets: Packet[] = [];
  let wake = () => {};
  reader.on("packet", (packet) => {
    packets.push(packet);
    wake();
  });
  socket.on("data", (bytes) => reader.parse(bytes));
  const send = (packet: Packet) => socket.write(generate(packet));
  const next = async (cmd: Packet["cmd"]): Promise<Packet> => {
    const found = packets.find((packet) => packet.cmd === cmd);
    if (found !== undefined) {
      return found;
    }
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
    return next(cmd);
  };
  const protocol = { protocolId: "MQTT", protocolVersion: 4, keepalive: 60 } as const;
  send({ cmd: "connect", clientId, clean, ...protocol, ...(will === undefined ? {} : { will }) });
  const connack = await next("connack");
  const sessionPresent = connack.cmd === "connack" && connack.sessionPresent;
  return { socket, closed, send, next, sessionPresent };
}
