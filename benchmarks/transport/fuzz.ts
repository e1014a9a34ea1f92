// Hostile bytes against all that reads foreign ones: the decoder of envelopes, a link that is in use, the embedded broker.
import { once } from "node:events";
import { connect } from "node:net";
import {
  type Broker,
  coordinatorLinkTopics,
  createLink,
  createMemoryHub,
  decodeEnvelope,
  deviceLinkTopics,
  encodeEnvelope,
  type Link,
  startBroker,
  type Transport,
} from "../../broker/index.ts";
import { type RandomStream, randomStream, TrifoldError } from "../../runtime/index.ts";
import { bombs, resealed, spoil, spoilings, validPackets } from "./hostile-bytes.ts";

/** What a fuzz run is made of. */
export interface FuzzOptions {
  readonly cases: number;
  readonly seed: number;
  readonly log: (line: string) => void;
}

/** What a fuzz run came to. */
export interface FuzzResult {
  readonly tried: number;
  /** Cases by target and kind of spoiling. */
  readonly byKind: Readonly<Record<string, number>>;
  /** What went wrong: an error without a code of ours, a link or a broker that no longer serves. */
  readonly crashes: readonly string[];
  readonly peakResidentBytes: number;
}

interface Bench {
  readonly random: RandomStream;
  readonly note: (kind: string) => void;
  readonly crash: (what: string) => void;
}

/** Two fifths each for envelopes and a link, a fifth for a broker. */
export async function fuzz({ cases, seed, log }: FuzzOptions): Promise<FuzzResult> {
  const byKind: Record<string, number> = {};
  const crashes: string[] = [];
  let peakResidentBytes = 0;
  let tried = 0;
  const bench: Bench = {
    random: randomStream("fuzz", seed),
    note: (kind) => {
      byKind[kind] = (byKind[kind] ?? 0) + 1;
      tried += 1;
      if (tried % 64 === 0)
        peakResidentBytes = Math.max(peakResidentBytes, process.memoryUsage.rss());
    },
    crash: (what) => crashes.push(what),
  };
  const share = Math.ceil(cases / 5);
  await fuzzEnvelopes(bench, 2 * share);
  log(`envelopes: ${tried} tried, ${crashes.length} crashes`);
  await fuzzLink(bench, 2 * share);
  log(`with a link: ${tried} tried, ${crashes.length} crashes`);
  await fuzzBroker(bench, share);
  log(`with a broker: ${tried} tried, ${crashes.length} crashes`);
  return { tried, byKind, crashes, peakResidentBytes };
}

async function fuzzEnvelopes({ random, note, crash }: Bench, cases: number): Promise<void> {
  const valid = [await envelopeBytes(0), await envelopeBytes(40)];
  const explosive = bombs();
  for (let i = 0; i < cases; i += 1) {
    const kind = spoilings[random.below(spoilings.length)] ?? "random";
    const isBomb = i % 500 === 0;
    const spoiled = spoil(random, kind, valid[i % 2] as Buffer);
    const bytes = isBomb
      ? (explosive[(i / 500) % explosive.length] as Buffer)
      : i % 3 === 0
        ? resealed(spoiled)
        : spoiled;
    note(`envelope ${isBomb ? "bomb" : kind}`);
    await decodeEnvelope(bytes).catch((error: unknown) => {
      if (!(error instanceof TrifoldError)) crash(`envelope ${kind}, case ${i}: ${error}`);
    });
  }
}

async function fuzzLink({ random, note, crash }: Bench, cases: number): Promise<void> {
  const hub = createMemoryHub();
  const connected = (clientId: string): Promise<Transport> => hub.connect({ clientId });
  const [coordinator, device, listener] = await Promise.all(
    ["coordinator", "pi-9", "listener"].map(connected),
  );
  if (!coordinator || !device || !listener) throw new Error("three were asked for");
  const shared = { federation: "fuzz", log: () => {}, maxMessageBytes: 1 << 20 };
  const topics = deviceLinkTopics("fuzz", "pi-9");
  const seen: Buffer[] = [];
  await listener.subscribe(topics.outbound, ({ bytes }) => {
    if (seen.length < 64) seen.push(Buffer.from(bytes));
  });
  const places = coordinatorLinkTopics("fuzz", "pi-9");
  const serving = await createLink({
    ...shared,
    ...places,
    transport: coordinator,
    self: "coordinator",
    peer: "pi-9",
    onRequest: async ({ fields }) => ({ kind: "echo", fields }),
  });
  // Whoever may write there is the device itself, and can spoil its own link until it opens another one.
  const serves = async (): Promise<boolean> => {
    const asking = await createLink({
      ...shared,
      ...topics,
      transport: device,
      self: "pi-9",
      peer: "coordinator",
    });
    try {
      return await answersOver(asking);
    } finally {
      await asking.close();
    }
  };
  if (!(await serves())) crash("link: silent from the start");
  for (let i = 0; i < cases; i += 1) {
    const kind = spoilings[random.below(spoilings.length)] ?? "random";
    note(`link ${kind}`);
    await device.publish(topics.outbound, spoil(random, kind, seen[i % seen.length] as Buffer));
    if (i % 2000 === 1999 && !(await serves())) crash(`link after case ${i}: silent`);
  }
  if (!(await serves())) crash("link: silent at the end");
  await serving.close();
  await hub.close();
}

/** Whether a request comes back. */
async function answersOver(link: Link): Promise<boolean> {
  const fields = { text: "x".repeat(3000) };
  const signal = AbortSignal.timeout(30_000);
  const reply = await link.request({ kind: "ask", fields }, { signal }).catch(() => undefined);
  return reply?.kind === "echo";
}

async function fuzzBroker({ random, note, crash }: Bench, cases: number): Promise<void> {
  const broker = await startBroker({ log: () => {} });
  const { outbound } = deviceLinkTopics("fuzz", "pi-9");
  const packets = validPackets(outbound, Buffer.alloc(200, 1));
  const hello = packets[0] as Buffer;
  const atOnce = 20;
  for (let i = 0; i < cases; i += atOnce) {
    const kind = spoilings[random.below(spoilings.length)] ?? "random";
    const spoiled = Array.from({ length: Math.min(atOnce, cases - i) }, () => {
      note(`packet ${kind}`);
      return spoil(random, kind, packets[random.below(packets.length)] as Buffer);
    });
    // Every other client has said who it is.
    await throwAt(broker, i % 40 === 0 ? [hello, ...spoiled] : spoiled);
    if (i % 2000 === 0 && !(await answers(broker, hello))) crash(`broker after case ${i}: silent`);
  }
  if (!(await answers(broker, hello))) crash("broker: silent at the end");
  await broker.close();
}

/** Writes packets until the broker has enough of it. */
async function throwAt(broker: Broker, packets: readonly Buffer[]): Promise<void> {
  const socket = connect({ port: broker.port, host: "127.0.0.1", noDelay: true });
  socket.on("error", () => {});
  socket.resume();
  const closed = once(socket, "close");
  for (const packet of packets) socket.write(packet);
  socket.end();
  await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, 200))]);
  socket.destroy();
}

async function answers(broker: Broker, hello: Buffer): Promise<boolean> {
  const socket = connect({ port: broker.port, host: "127.0.0.1", noDelay: true });
  socket.on("error", () => {});
  socket.write(hello);
  const [first] = (await Promise.race([
    once(socket, "data"),
    new Promise((resolve) => setTimeout(() => resolve([undefined]), 10_000)),
  ])) as [Buffer | undefined];
  socket.destroy();
  // CONNACK (MQTT 3.1.1, section 3.2).
  return first?.[0] === 0x20;
}

async function envelopeBytes(rows: number): Promise<Buffer> {
  const values = new Float32Array(rows * 8).map((_, i) => i / 7);
  const weights = {
    shape: [rows, 8],
    encoding: "float32",
    bytes: new Uint8Array(values.buffer),
  } as const;
  return Buffer.from(
    await encodeEnvelope({
      ...{ federation: "fuzz", task: "t", round: 1, attempt: 1, lane: 1 },
      ...{ sender: "pi-9", instance: "00112233aabbccdd", sequence: 3, kind: "update" },
      fields: { note: "a note of some length" },
      tensors: new Map(rows === 0 ? [] : [["w", weights]]),
      blobs: new Map(),
    }),
  );
}
