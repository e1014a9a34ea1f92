// Large messages whose bodies go apart: resumed whoever restarts, held to their hashes, taken as often as they are spoken of.
import { existsSync, readdirSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join as joinPath } from "node:path";
import t, { type Test } from "tap";
import { encodeParted } from "../../broker/codec/envelope.ts";
import {
  deviceLinkTopics,
  encodeFrame,
  openPieceFiles,
  type RequestHandler,
  type Transport,
} from "../../broker/index.ts";
import { createManualClock } from "./manual-clock.ts";
import {
  dam,
  deviceId,
  echo,
  equal,
  federation,
  join,
  lossy,
  noise,
  settle,
  until,
  withTime,
} from "./peers.ts";

const fixedWindow = { pieceBytes: 4096, pieces: 4 };
/** Four pieces with their headers, and the message that speaks of the body. */
const windowBytes = 4 * 4200 + 500;
const total = 600_000;
const blobs = new Map([["x", noise(total, 5)]]);
const sizes: RequestHandler = async ({ blobs: got }) => {
  return { kind: "done", fields: { isWhole: equal(got.get("x"), blobs.get("x")) } };
};

t.test("a receiver that restarts is sent what it has not had", async (t) => {
  const { world, request, store, open } = await interrupted(t);
  await world.transports.coordinator.close({ will: "publish" });
  open();
  await settle();
  const before = world.device.counters().sentBytes;
  const again = await world.startCoordinator(sizes, { pieces: store() });
  t.strictSame((await request).fields, { isWhole: true });
  const rest = world.device.counters().sentBytes - before;
  t.ok(rest < 0.55 * total, `${rest} of ${total} bytes`);
  const { repeatedBytes } = world.device.counters();
  t.ok(repeatedBytes <= windowBytes, `and nothing twice but the window: ${repeatedBytes}`);
  await until(() => files(t).length === 0);
  await again.close();
});

t.test("what a power cut left of a piece file is told by its checks, and sent again", async (t) => {
  const { world, request, store, open } = await interrupted(t);
  await world.transports.coordinator.close({ will: "publish" });
  open();
  await settle();
  const [name = ""] = files(t);
  const file = joinPath(folderOf(t), name);
  truncateSync(file, 100_000);
  writeFileSync(file, Buffer.from("torn"), { flag: "r+" });
  const again = await world.startCoordinator(sizes, { pieces: store() });
  t.strictSame((await request).fields, { isWhole: true });
  await again.close();
});

t.test("a sender that restarts asks what is there and sends the rest", async (t) => {
  const { world, request, open } = await interrupted(t);
  const lost = t.rejects(request, { code: "LINK_CLOSED" });
  await world.transports.device.close({ will: "publish" });
  await lost;
  open();
  const device = await world.startDevice();
  const reply = await device.request({ kind: "upload", blobs }, { mayBeThere: true });
  t.strictSame(reply.fields, { isWhole: true });
  const { sentBytes } = device.counters();
  t.ok(sentBytes < 0.55 * total, `${sentBytes} of ${total} bytes`);
});

t.test("a body that was used up is sent again to whoever speaks of it again", async (t) => {
  const { device } = await join(t, sizes, { fixedWindow });
  for (let i = 0; i < 3; i += 1) {
    t.strictSame((await device.request({ kind: "upload", blobs })).fields, { isWhole: true });
  }
  const both = [1, 2].map(() => device.request({ kind: "upload", blobs }));
  for (const reply of await Promise.all(both)) {
    t.strictSame(reply.fields, { isWhole: true });
  }
});

t.test("bodies get through a network that loses, doubles and reorders", async (t) => {
  for (const seed of [1, 2, 3, 4, 5, 6]) {
    const clock = createManualClock();
    const wrap = (transport: Parameters<typeof lossy>[0]) => lossy(transport, seed);
    const { device, coordinator } = await join(t, echo, { clock, wrap, fixedWindow });
    const sent = [200_000, 20_000, 90_000, 30_001].map((length, i) => noise(length, seed + i));
    const work = Promise.all(
      sent.map((bytes) => device.request({ kind: "a", blobs: new Map([["x", bytes]]) })),
    );
    const replies = await withTime(clock, work);
    t.ok(
      replies.every((reply, i) => equal(reply.blobs.get("x"), sent[i])),
      `seed ${seed}`,
    );
    await Promise.all([device.close(), coordinator.close()]);
  }
});

t.test("a peer that speaks of bodies and sends none is held to a number of them", async (t) => {
  const log: string[] = [];
  const { device, coordinator, transports } = await join(t, sizes, {
    log: (line) => log.push(line),
  });
  const { outbound } = deviceLinkTopics(federation, deviceId);
  for (let i = 0; i < 140; i += 1) {
    const { message } = await encodeParted({
      ...{ federation, task: "", round: 0, attempt: 0, lane: 0, sender: deviceId, kind: "upload" },
      ...{ instance: "00112233445566ff", sequence: i + 1, fields: {}, tensors: new Map() },
      blobs: new Map([["x", noise(20_000, i)]]),
    });
    const place = { offset: 0, totalBytes: message.byteLength, payload: message };
    const name = i.toString(16).padStart(16, "0");
    const chunk = { kind: "chunk", instance: "00112233445566ff", message: name } as const;
    await transports.device.publish(outbound, encodeFrame({ ...chunk, isBody: false, ...place }));
  }
  await until(() => coordinator.counters().refusedEnvelopes === 12);
  t.match(log.join("\n"), /128 messages wait for their bodies already/);
  await device.close();
});

t.test(
  "a request that is given up while its body travels is forgotten at the other end",
  async (t) => {
    const seen: string[] = [];
    const { device, coordinator } = await join(
      t,
      async ({ kind }) => {
        seen.push(kind);
        return { kind: "done" };
      },
      { fixedWindow },
    );
    const abort = new AbortController();
    const upload = device.request({ kind: "upload", blobs }, { signal: abort.signal });
    await until(() => coordinator.counters().receivedBytes > 100_000);
    abort.abort(new Error("no longer"));
    await t.rejects(upload, { message: "no longer" });
    t.equal((await device.request({ kind: "after" })).kind, "done");
    t.strictSame(seen, ["after"]);
  },
);

t.test("a store that cannot write costs the resumption and not the message", async (t) => {
  const log: string[] = [];
  const folder = joinPath(t.testdir({ file: "no folder" }), "file", "below");
  const pieces = openPieceFiles({ folder, log: (line) => log.push(line) });
  const { device } = await join(t, sizes, { fixedWindow, pieces });
  t.strictSame((await device.request({ kind: "upload", blobs })).fields, { isWhole: true });
  t.match(log.join("\n"), /not kept over a restart/);
  t.equal(log.length, 1, "said once");
});

/** An upload of which half is there; the rest stays where it is until `open`. */
async function interrupted(t: Test) {
  const folder = folderOf(t);
  const store = () => openPieceFiles({ folder, log: () => {} });
  const { pieceBytes } = fixedWindow;
  const half = Math.floor(total / 2 / pieceBytes);
  const { holds, open, wrap: hold } = dam(half, { ofBytes: pieceBytes });
  const wrap = (transport: Transport) =>
    transport.clientId === deviceId ? hold(transport) : transport;
  const world = await join(t, sizes, { fixedWindow, pieces: store(), wrap });
  const request = world.device.request({ kind: "upload", blobs });
  await until(() => holds() && bytesIn(folder) >= half * pieceBytes);
  return { world, request, store, open };
}

function bytesIn(folder: string): number {
  const names = existsSync(folder) ? readdirSync(folder) : [];
  return names.reduce((sum, name) => sum + statSync(joinPath(folder, name)).size, 0);
}

function folderOf(t: Test): string {
  return joinPath(t.testdirName, "pieces");
}

function files(t: Test): string[] {
  return readdirSync(folderOf(t));
}
