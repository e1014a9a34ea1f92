// Counts what MQTT puts on the wire. PUBLISH packets are counted whole (fixed header, topic, packet id,
// payload; MQTT 3.1.1 section 3.3), repeats included; everything else is control traffic. TCP, IP and
// TLS come on top and are not seen here.

/** Classes of topics that are counted apart, by their last level. */
export const trafficClasses = ["up", "down", "status", "other"] as const;

/** Last level of the topic, so that payloads and status traffic are apart. */
export type TrafficClass = (typeof trafficClasses)[number];

/** Packets and their bytes. */
export interface TrafficCount {
  readonly packets: number;
  readonly bytes: number;
}

/** Counts by class, and of everything that is not a PUBLISH (connects, acknowledgements, pings). */
export interface TrafficSide extends Readonly<Record<TrafficClass, TrafficCount>> {
  readonly control: TrafficCount;
}

/** A reading of the meter. */
export interface Traffic {
  readonly sent: TrafficSide;
  readonly received: TrafficSide;
}

/** Adds up the packets of one client. */
export interface TrafficMeter {
  countPublish(direction: keyof Traffic, topic: string, payloadBytes: number, qos: number): void;
  countControl(direction: keyof Traffic, bytes: number): void;
  read(): Traffic;
}

/** A meter at zero. */
export function createTrafficMeter(): TrafficMeter {
  const counts = { sent: emptySide(), received: emptySide() };
  const add = (direction: keyof Traffic, key: keyof TrafficSide, bytes: number) => {
    counts[direction][key].packets += 1;
    counts[direction][key].bytes += bytes;
  };
  return {
    countPublish: (direction, topic, payloadBytes, qos) =>
      add(direction, classOf(topic), publishPacketBytes(topic, payloadBytes, qos)),
    countControl: (direction, bytes) => add(direction, "control", bytes),
    read: () => structuredClone(counts),
  };
}

/** Length of a PUBLISH packet: fixed header, topic, packet id when acknowledged, payload. */
export function publishPacketBytes(topic: string, payloadBytes: number, qos: number): number {
  return packetBytes(2 + Buffer.byteLength(topic) + (qos > 0 ? 2 : 0) + payloadBytes);
}

/** Length of a packet whose variable part has `remainingBytes`: one byte of type, one to four of length. */
export function packetBytes(remainingBytes: number): number {
  const lengthBytes =
    [0x80, 0x4000, 0x200000].filter((limit) => remainingBytes >= limit).length + 1;
  return 1 + lengthBytes + remainingBytes;
}

type MutableSide = Record<keyof TrafficSide, { packets: number; bytes: number }>;

function emptySide(): MutableSide {
  const zero = () => ({ packets: 0, bytes: 0 });
  return { up: zero(), down: zero(), status: zero(), other: zero(), control: zero() };
}

function classOf(topic: string): TrafficClass {
  const level = topic.slice(topic.lastIndexOf("/") + 1);
  return trafficClasses.find((name) => name === level) ?? "other";
}
