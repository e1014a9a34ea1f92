// Bytes that mean harm, made of valid ones and of nothing: seeded, so that a failure comes again.
import { createHash } from "node:crypto";
import { deflateRawSync } from "node:zlib";
import { generate } from "mqtt-packet";
import type { RandomStream } from "../../runtime/index.ts";

/** How valid bytes are spoiled. */
export const spoilings = ["random", "flipped", "cut", "stretched", "lengths", "spliced"] as const;

/** One of `spoilings`. */
export type Spoiling = (typeof spoilings)[number];

/** Hostile bytes made of `valid`. */
export function spoil(random: RandomStream, kind: Spoiling, valid: Buffer): Buffer {
  const at = random.below(valid.length);
  const bytes = Buffer.from(valid);
  switch (kind) {
    case "random":
      return randomBytes(random, random.below(2000));
    case "flipped":
      for (let i = 0; i <= random.below(8); i += 1)
        bytes[random.below(bytes.length)] = random.below(256);
      return bytes;
    case "cut":
      return bytes.subarray(0, at);
    case "stretched":
      return Buffer.concat([bytes, randomBytes(random, 1 + random.below(500))]);
    case "lengths": {
      // Any four bytes may be a length.
      const extreme = [0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0x04000000][random.below(6)] ?? 0;
      if (at + 4 <= bytes.length) bytes.writeUInt32LE(extreme, at);
      return bytes;
    }
    case "spliced":
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(random.below(bytes.length))]);
  }
}

/** With the checksum that belongs to what stands before it: gets past the first door of an envelope. */
export function resealed(bytes: Buffer): Buffer {
  const content = bytes.subarray(0, Math.max(bytes.length - 32, 0));
  return Buffer.concat([content, createHash("sha256").update(content).digest()]);
}

/** Envelopes of the README's layout whose header is deep, whose parts inflate without end, or to less than they say. */
export function bombs(): readonly Buffer[] {
  const deep = Buffer.alloc(60_000, 0x91);
  const maps = Buffer.alloc(60_000, 0x81);
  const zeros = deflateRawSync(Buffer.alloc(32 * 1024 * 1024));
  return [
    envelope({ header: deep, body: Buffer.alloc(0) }),
    envelope({ header: maps, body: Buffer.alloc(0) }),
    envelope({ flags: 1, header: zeros, headerBytes: 65_536, body: Buffer.alloc(0) }),
    envelope({ flags: 2, header: Buffer.from([0x80]), body: zeros, bodyBytes: 1024 }),
    envelope({ flags: 2, header: Buffer.from([0x80]), body: zeros, bodyBytes: 0xffffffff }),
    envelope({ flags: 3, header: zeros, headerBytes: 0xffffffff, body: zeros, bodyBytes: 1 << 25 }),
  ];
}

function envelope({
  flags = 0,
  header,
  headerBytes = header.length,
  body,
  bodyBytes = body.length,
}: {
  readonly flags?: number;
  readonly header: Buffer;
  readonly headerBytes?: number;
  readonly body: Buffer;
  readonly bodyBytes?: number;
}): Buffer {
  const preamble = Buffer.alloc(44);
  preamble.write("TF");
  preamble.writeUInt8(1, 2);
  preamble.writeUInt8(flags, 3);
  for (const [i, length] of [header.length, headerBytes, body.length, bodyBytes].entries())
    preamble.writeUInt32LE(length, 4 + 4 * i);
  return resealed(Buffer.concat([preamble, header, body, Buffer.alloc(32)]));
}

/** Packets that a client of the federation sends. */
export function validPackets(topic: string, payload: Buffer): readonly Buffer[] {
  const protocol = { protocolId: "MQTT", protocolVersion: 4, keepalive: 60 } as const;
  const will = { topic, payload: Buffer.from("{}"), qos: 1, retain: true } as const;
  return [
    generate({ cmd: "connect", clientId: "pi-9", clean: true, ...protocol, will }),
    generate({ cmd: "publish", topic, payload, qos: 1, messageId: 7, dup: false, retain: false }),
    generate({ cmd: "subscribe", messageId: 8, subscriptions: [{ topic, qos: 1 }] }),
    generate({ cmd: "unsubscribe", messageId: 9, unsubscriptions: [topic] }),
    generate({ cmd: "puback", messageId: 7 }),
    generate({ cmd: "pubrel", messageId: 7 }),
    generate({ cmd: "pingreq" }),
    generate({ cmd: "disconnect" }),
  ];
}

function randomBytes(random: RandomStream, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => random.below(256)));
}
