// A hop before a broker that understands MQTT: it cuts the wire, and doubles, holds back or spoils packets of links on their way.
import type { Socket } from "node:net";
import { generate, type IPublishPacket, type Packet, parser } from "mqtt-packet";
import { startHop } from "../broker/network.ts";

/** What befalls one packet of a link. */
export type PacketFault = "duplicate" | "reorder" | "corrupt";

/** A hop that harms. */
export interface FaultProxy {
  readonly url: string;
  /** Harms the next packet of a link that passes; gives false when one is still waited for. */
  harm(fault: PacketFault, onDone: () => void): boolean;
  cut(): void;
  restore(): void;
  close(): Promise<void>;
}

/** Starts a hop to a port of loopback. */
export async function startFaultProxy(target: number): Promise<FaultProxy> {
  let next: { readonly fault: PacketFault; readonly onDone: () => void } | undefined;
  const take = (packet: Packet): PacketFault | undefined => {
    if (!next || packet.cmd !== "publish" || !/\/(up|down)$/.test(packet.topic)) return undefined;
    const { fault, onDone } = next;
    next = undefined;
    onDone();
    return fault;
  };
  const { port, cut, restore, close } = await startHop(target, (from, to) => pass(from, to, take));
  return {
    url: `mqtt://127.0.0.1:${port}`,
    harm: (fault, onDone) => {
      if (next) return false;
      next = { fault, onDone };
      return true;
    },
    cut,
    restore,
    close,
  };
}

/** Packets from one socket to the other. */
function pass(from: Socket, to: Socket, take: (packet: Packet) => PacketFault | undefined): void {
  const reader = parser({ protocolVersion: 4 });
  let held: Buffer | undefined;
  const release = (): void => {
    if (held) to.write(held);
    held = undefined;
  };
  reader.on("packet", (packet) => {
    const fault = take(packet);
    const bytes = generate(fault === "corrupt" ? spoiled(packet as IPublishPacket) : packet);
    if (fault === "reorder") {
      held = bytes;
      // Nothing may follow.
      setTimeout(release, 200).unref();
      return;
    }
    to.write(bytes);
    // At QoS 0, so that the acknowledgement of the other one stays the only one.
    if (fault === "duplicate") to.write(generate(repeated(packet as IPublishPacket)));
    release();
  });
  reader.on("error", () => from.destroy());
  from.once("close", () => to.destroy());
  from.on("data", (bytes) => reader.parse(bytes));
}

function spoiled(packet: IPublishPacket): IPublishPacket {
  const payload = Buffer.from(packet.payload as Buffer);
  const at = payload.length - 1 - (payload.length >> 2);
  payload[at] = (payload[at] ?? 0) ^ 0xff;
  return { ...packet, payload };
}

function repeated({ messageId: _, ...packet }: IPublishPacket): IPublishPacket {
  return { ...packet, qos: 0, dup: false };
}
