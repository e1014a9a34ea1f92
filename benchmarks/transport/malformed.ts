// Study `malformed`: seeded input that no honest peer sends, against everything that reads foreign bytes: frames, envelopes, an
// assembler, a live link, and the embedded broker's sockets. Each case must end in a coded error or be ignored; afterwards the live
// ends must still answer.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { setImmediate as turn } from "node:timers/promises";
import { crc32, deflateRawSync } from "node:zlib";
import {
  coordinatorLinkTopics,
  createLink,
  createMemoryHub,
  decodeEnvelope,
  decodeFrame,
  deviceLinkTopics,
  type Envelope,
  encodeEnvelope,
  encodeFrame,
  startBroker,
} from "../../broker/index.ts";
import { type RandomStream, randomStream, TrifoldError } from "../../runtime/index.ts";

/** How much is tried. */
export interface MalformedOptions {
  readonly cases: number;
  readonly seed: number;
  readonly log: (message: string) => void;
}

/** What came of it. */
export interface MalformedResult {
  readonly tried: number;
  readonly byKind: Readonly<Record<string, number>>;
  /** Errors without a code, and live ends that no longer answered. */
  readonly failures: readonly string[];
  readonly peakResidentBytes: number;
}

/** Of all cases, in hundredths: parsers are quick, sockets are not. */
const shares = { frames: 45, envelopes: 40, link: 14, broker: 1 } as const;

/** Tries them all. */
export async function tryMalformed(options: MalformedOptions): Promise<MalformedResult> {
  const failures: string[] = [];
  const byKind: Record<string, number> = {};
  let peakResidentBytes = 0;
  const attempts = { frames: tryFrame, envelopes: tryEnvelope } as const;
  const count = (kind: keyof typeof shares) => Math.ceil((options.cases * shares[kind]) / 100);
  const note = (kind: string): void => {
    byKind[kind] = (byKind[kind] ?? 0) + 1;
    if ((byKind[kind] ?? 0) % 500 === 0)
      peakResidentBytes = Math.max(peakResidentBytes, process.memoryUsage.rss());
  };
  for (const kind of ["frames", "envelopes"] as const) {
    const random = randomStream("malformed", options.seed, kind);
    for (let i = 0; i < count(kind); i += 1) {
      const failure = await attempts[kind](random);
      if (failure !== undefined) failures.push(`${kind} ${i}: ${failure}`);
      note(kind);
    }
    options.log(`${count(kind)} ${kind}`);
  }
  failures.push(...(await tryLink(count("link"), options.seed, () => note("link"))));
  options.log(`${count("link")} frames at a live link`);
  failures.push(...(await tryBroker(count("broker"), options.seed, () => note("broker"))));
  options.log(`${count("broker")} connections to a live broker`);
  const tried = Object.values(byKind).reduce((sum, value) => sum + value, 0);
  return { tried, byKind, failures, peakResidentBytes };
}

async function tryFrame(random: RandomStream): Promise<string | undefined> {
  return codedOnly(() => decodeFrame(hostileFrame(random)));
}

async function tryEnvelope(random: RandomStream): Promise<string | undefined> {
  const bytes = await hostileEnvelope(random);
  return codedOnly(() => decodeEnvelope(bytes, { maxBytes: 1024 * 1024 }));
}

async function codedOnly(read: () => unknown): Promise<string | undefined> {
  try {
    await read();
    return undefined;
  } catch (error) {
    return error instanceof TrifoldError ? undefined : String(error);
  }
}

/** A frame that was valid once, with the checksum that it should have more often than not. */
function hostileFrame(random: RandomStream): Uint8Array {
  const kinds = ["chunk", "state", "probe", "drop", "hello"] as const;
  const kind = kinds[random.below(kinds.length)] ?? "hello";
  const identity = { instance: hex(random), message: hex(random) };
  const payload = noise(random, random.below(3) === 0 ? 4096 * random.below(3) : random.below(200));
  const totalBytes = random.below(2) === 0 ? payload.byteLength : random.below(2 ** 32);
  const offset = 4096 * random.below(2 ** 20);
  const frames = {
    chunk: { kind, ...identity, isBody: random.below(2) === 0, offset, totalBytes, payload },
    state: {
      kind,
      ...identity,
      isComplete: random.below(2) === 0,
      probe: random.below(9),
      units: payload,
    },
    probe: { kind, ...identity, probe: random.below(2 ** 32) },
    drop: { kind, ...identity },
    hello: { kind, ...identity },
  };
  const good = Uint8Array.from(encodeFrame(frames[kind] as Parameters<typeof encodeFrame>[0]));
  const bad = mutate(random, good);
  if (random.below(4) > 0 && bad.byteLength > 4) {
    const end = bad.byteLength - 4;
    new DataView(bad.buffer, bad.byteOffset).setUint32(end, crc32(bad.subarray(0, end)), true);
  }
  return bad;
}

/** An envelope that was valid once, sealed again more often than not. */
async function hostileEnvelope(random: RandomStream): Promise<Uint8Array> {
  const good = await encodeEnvelope({
    ...empty,
    fields: nested(random),
    blobs: new Map([["x", noise(random, random.below(300))]]),
  }).catch(() => encodeEnvelope(empty));
  if (random.below(50) === 0) return seal(Uint8Array.from(await bomb()));
  const bad = mutate(random, Uint8Array.from(good));
  return random.below(4) > 0 ? seal(bad) : bad;
}

const empty: Envelope = {
  ...{ federation: "farm", task: "", round: 0, attempt: 0, lane: 0, sender: "pi-4" },
  ...{ instance: "00112233445566ff", sequence: 7, kind: "join", fields: {} },
  ...{ tensors: new Map(), blobs: new Map() },
};

/** A header that inflates to far more than it says. */
async function bomb(): Promise<Uint8Array> {
  const good = Buffer.from(await encodeEnvelope(empty));
  const header = deflateRawSync(Buffer.alloc(4_000_000));
  const preamble = Buffer.from(good.subarray(0, 44));
  preamble.writeUInt8(1, 3);
  preamble.writeUInt32LE(header.byteLength, 4);
  preamble.writeUInt32LE(60_000, 8);
  return Buffer.concat([preamble, header, Buffer.alloc(32)]);
}

function seal(bytes: Uint8Array): Uint8Array {
  if (bytes.byteLength < 32) return bytes;
  const end = bytes.byteLength - 32;
  bytes.set(createHash("sha256").update(bytes.subarray(0, end)).digest(), end);
  return bytes;
}

function nested(random: RandomStream): Record<string, unknown> {
  let value: unknown = random.below(2 ** 32);
  for (let depth = random.below(14); depth > 0; depth -= 1)
    value = random.below(2) === 0 ? [value, value] : { [hex(random)]: value };
  return { value };
}

/** Changes bytes, takes some away, adds some, or writes a length that is none. */
function mutate(random: RandomStream, bytes: Uint8Array): Uint8Array {
  let changed = bytes;
  for (let i = 1 + random.below(4); i > 0; i -= 1) {
    const at = random.below(Math.max(1, changed.byteLength));
    const kind = random.below(6);
    if (kind === 0) changed = changed.slice(0, at);
    else if (kind === 1)
      changed = Uint8Array.from([...changed, ...noise(random, random.below(64))]);
    else if (kind === 2) changed = noise(random, random.below(300));
    else if (kind === 3 && at + 4 <= changed.byteLength)
      changed.set([0xff, 0xff, 0xff, random.below(256)], at);
    else changed[at] = random.below(256);
  }
  return Uint8Array.from(changed);
}

/** A link that hears nothing but this from its peer's topic, and must answer the peer still. */
async function tryLink(cases: number, seed: number, note: () => void): Promise<string[]> {
  const random = randomStream("malformed", seed, "link");
  const hub = createMemoryHub();
  const shared = { federation: "farm", log: () => {}, maxMessageBytes: 1024 * 1024 };
  const [near, far] = [
    await hub.connect({ clientId: "pi-4" }),
    await hub.connect({ clientId: "coordinator" }),
  ];
  const ends = { self: "coordinator", peer: "pi-4", ...coordinatorLinkTopics("farm", "pi-4") };
  const onRequest = () => Promise.resolve({ kind: "taken" });
  const coordinator = await createLink({ ...shared, ...ends, transport: far, onRequest });
  const { outbound } = deviceLinkTopics("farm", "pi-4");
  for (let i = 0; i < cases; i += 1) {
    await near.publish(outbound, hostileFrame(random));
    if (i % 200 === 0) await turn();
    note();
  }
  const own = { self: "pi-4", peer: "coordinator", ...deviceLinkTopics("farm", "pi-4") };
  const device = await createLink({ ...shared, ...own, transport: near });
  const signal = AbortSignal.timeout(30_000);
  const failures = await device.request({ kind: "still-there" }, { signal }).then(
    () => [],
    (error: unknown) => [`the link does not answer any more: ${error}`],
  );
  await Promise.all([device.close(), coordinator.close()]);
  await hub.close();
  return failures;
}

/** Raw bytes to a listener, before and after a CONNECT; the broker must let an honest client in afterwards. */
async function tryBroker(cases: number, seed: number, note: () => void): Promise<string[]> {
  const random = randomStream("malformed", seed, "broker");
  const broker = await startBroker({ log: () => {}, connectTimeoutMs: 200 });
  const exchange = async (packets: readonly Uint8Array[]): Promise<Uint8Array> => {
    const socket = connect(broker.port, "127.0.0.1");
    socket.on("error", () => {});
    await once(socket, "connect");
    const answers: Buffer[] = [];
    socket.on("data", (bytes) => answers.push(bytes));
    for (const packet of packets) socket.write(packet);
    const closed = once(socket, "close");
    socket.end();
    await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, 300))]);
    socket.destroy();
    return Buffer.concat(answers);
  };
  for (let i = 0; i < cases; i += 20) {
    const some = Array.from({ length: Math.min(20, cases - i) }, () => {
      const before = random.below(2) === 0 ? [connectPacket] : [];
      return [...before, mutate(random, hostilePacket(random))];
    });
    await Promise.all(some.map(exchange));
    for (const _ of some) note();
  }
  const answer = await exchange([connectPacket]);
  await broker.close();
  // CONNACK, accepted (MQTT 3.1.1 section 3.2).
  return Buffer.from(answer)
    .subarray(0, 4)
    .equals(Buffer.of(0x20, 2, 0, 0))
    ? []
    : ["the broker lets nobody in any more"];
}

/** CONNECT of client `pi-4`, clean session (MQTT 3.1.1 section 3.1). */
const connectPacket = Buffer.from("101000044d51545404020000000470692d34", "hex");

function hostilePacket(random: RandomStream): Uint8Array {
  const body = noise(random, random.below(400));
  const length = random.below(3) === 0 ? noise(random, 4) : Uint8Array.of(body.byteLength & 0x7f);
  return Uint8Array.from([random.below(256), ...length, ...body]);
}

function noise(random: RandomStream, length: number): Uint8Array {
  return Uint8Array.from({ length }, () => random.below(256));
}

function hex(random: RandomStream): string {
  return Buffer.from(noise(random, 8)).toString("hex");
}
