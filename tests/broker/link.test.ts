import t from "tap";
import {
  connectMqtt,
  coordinatorLinkTopics,
  createLink,
  deviceLinkTopics,
  startBroker,
} from "../../broker/index.ts";
import { TrifoldError } from "../../runtime/index.ts";
import { createManualClock } from "./manual-clock.ts";
import { startHop } from "./network.ts";
import {
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

/** Four pieces of one unit. */
const fixedWindow = { pieceBytes: 4096, pieces: 4 };

t.test("a request gets its reply, with fields, tensors and blobs both ways", async (t) => {
  const { device } = await join(t, async (request) => ({
    kind: "echo",
    fields: { of: request.kind, round: request.round, ...request.fields },
    tensors: request.tensors,
    blobs: request.blobs,
  }));
  const tensor = { shape: [2], encoding: "bf16", bytes: Uint8Array.of(1, 2, 3, 4) } as const;
  const reply = await device.request({
    kind: "join",
    round: 4,
    fields: { board: "pi" },
    tensors: new Map([["w", tensor]]),
    blobs: new Map([["file", Uint8Array.of(7)]]),
  });
  t.equal(reply.sender, "coordinator");
  t.strictSame(reply.fields, { of: "join", round: 4, board: "pi" });
  t.same(reply.tensors.get("w"), tensor);
  t.same(reply.blobs.get("file"), Uint8Array.of(7));
});

t.test("the coordinator asks too, and many requests run at once", async (t) => {
  const gates = new Map<number, () => void>();
  const { coordinator } = await join(t, undefined, {
    device: async (request) => {
      const number = Number(request.fields["number"]);
      await new Promise<void>((resolve) => {
        gates.set(number, resolve);
        // The last to come is answered first.
        if (gates.size === 20) {
          for (const gate of [...gates.values()].reverse()) {
            gate();
          }
        }
      });
      return { kind: "answer", fields: { number } };
    },
  });
  const numbers = Array.from({ length: 20 }, (_, number) => number);
  const replies = await Promise.all(
    numbers.map((number) => coordinator.request({ kind: "ask", fields: { number } })),
  );
  t.strictSame(
    replies.map((reply) => reply.fields["number"]),
    numbers,
  );
});

t.test("an error reaches the asker with code, text and hint; others stay private", async (t) => {
  const log: string[] = [];
  const { device } = await join(
    t,
    async ({ kind }) => {
      if (kind === "private") {
        throw new Error("row 7 says: secret");
      }
      throw new TrifoldError("PROTOCOL_VERSION_MISMATCH", "no such version", { hint: "update" });
    },
    { log: (line) => log.push(line) },
  );
  await t.rejects(device.request({ kind: "join" }), {
    code: "PROTOCOL_VERSION_MISMATCH",
    message: "no such version",
    hint: "update",
  });
  const failure = await device.request({ kind: "private" }).catch((error: TrifoldError) => error);
  t.match(failure, { code: "PEER_FAILED" });
  t.notMatch(String(failure), /secret/);
  t.match(log.join("\n"), /secret/, "the peer's own log says why");
});

t.test("a message too large, not plain or aborted is rejected, and the link goes on", async (t) => {
  const { device } = await join(t, echo, { maxMessageBytes: 4000 });
  const large = new Map([["x", new Uint8Array(5000)]]);
  await t.rejects(device.request({ kind: "a", blobs: large }), { code: "ENVELOPE_TOO_LARGE" });
  await t.rejects(device.request({ kind: "a", fields: { x: Number.NaN } }), {
    code: "ENVELOPE_INVALID",
  });
  const signal = AbortSignal.abort(new Error("stopped"));
  await t.rejects(device.request({ kind: "a" }, { signal }), { message: "stopped" });
  t.equal((await device.request({ kind: "b" })).kind, "echo");
});

t.test("an aborted request rejects with the reason while its answer is awaited", async (t) => {
  const { device } = await join(t, () => new Promise(() => {}));
  const abort = new AbortController();
  const request = device.request({ kind: "slow" }, abort);
  setImmediate(() => abort.abort(new Error("round is over")));
  await t.rejects(request, { message: "round is over" });
});

t.test("closing rejects what waits, and the handler's signal says so", async (t) => {
  let aborted: AbortSignal | undefined;
  let called = () => {};
  const isCalled = new Promise<void>((resolve) => {
    called = resolve;
  });
  const { device, coordinator } = await join(t, (_request, signal) => {
    aborted = signal;
    called();
    return new Promise(() => {});
  });
  const waiting = t.rejects(device.request({ kind: "slow" }), { code: "LINK_CLOSED" });
  await isCalled;
  await Promise.all([device.close(), device.close(), coordinator.close()]);
  await waiting;
  t.equal(aborted?.aborted, true);
  await t.rejects(device.request({ kind: "late" }), { code: "LINK_CLOSED" });
});

t.test("lost, doubled and reordered frames cost repeats and nothing else", async (t) => {
  for (const seed of [1, 2, 3, 4, 5]) {
    const clock = createManualClock();
    const seen: number[] = [];
    const { device, coordinator } = await join(
      t,
      async (request) => {
        seen.push(Number(request.fields["number"]));
        return { kind: "echo", blobs: request.blobs };
      },
      { clock, wrap: (transport) => lossy(transport, seed), fixedWindow },
    );
    const sent = Array.from({ length: 6 }, (_, number) => noise(number * 12_000 + 10, number));
    const finished = Promise.all(
      sent.map((bytes, number) => {
        const blobs = new Map([["x", bytes]]);
        return device.request({ kind: "lane", fields: { number }, blobs });
      }),
    );
    const replies = await withTime(clock, finished);
    t.ok(
      replies.every((reply, number) => equal(reply.blobs.get("x"), sent[number])),
      `seed ${seed}: every reply is its request's`,
    );
    t.strictSame([...seen].sort(), [0, 1, 2, 3, 4, 5], "each was processed once");
    t.ok(device.counters().repeatedBytes > 0, "the network was bad");
    await Promise.all([device.close(), coordinator.close()]);
  }
});

t.test("no more than the window is on its way, and small messages pass it", async (t) => {
  const clock = createManualClock();
  const { device, pause } = await join(t, echo, { clock, fixedWindow });
  pause.down();
  const request = device.request({ kind: "big", blobs: new Map([["x", noise(200_000, 1)]]) });
  await until(() => device.counters().sentBytes >= 4 * 4096);
  await settle();
  const stalled = device.counters().sentBytes;
  // A hello of 60 bytes, the message of about 300 and four pieces of 4 KiB, each with 31 bytes of header and 40 of MQTT.
  t.ok(stalled > 4 * 4096 && stalled < 4 * 4180 + 500, `${stalled} bytes`);
  const small = device.request({ kind: "small" });
  await until(() => device.counters().sentBytes > stalled);
  pause.up();
  clock.advance(10_000);
  await Promise.all([request, small]);
});

t.test("after a reconnect only what is missing is sent again", async (t) => {
  const { device, hub, transports } = await join(t, echo, { fixedWindow });
  const blobs = new Map([["x", noise(200_000, 2)]]);
  const request = device.request({ kind: "big", blobs });
  await until(() => device.counters().sentBytes >= 100_000);
  hub.cut(transports.device);
  await hub.restore(transports.device);
  await request;
  // What was under way: a window of four pieces, sent again by the transport and at most once more by the link.
  t.ok(device.counters().repeatedBytes <= 4 * 4200, `${device.counters().repeatedBytes}`);
});

t.test("over MQTT four megabytes survive a cut cable and a restarted broker", async (t) => {
  let broker = await startBroker({ log: () => {} });
  const { port } = broker;
  const hop = await startHop(port);
  t.teardown(async () => {
    await hop.close();
    await broker.close();
  });
  const backOff = { firstMs: 5, maxMs: 20 };
  const connect = (clientId: string, through: number) =>
    connectMqtt({ url: `mqtt://127.0.0.1:${through}`, clientId, backOff, log: () => {} });
  const shared = { federation, log: () => {} };
  const atDevice = await connect(deviceId, hop.port);
  const atCoordinator = await connect("coordinator", port);
  const ends = { self: deviceId, peer: "coordinator" };
  const device = await createLink({
    ...{ ...shared, ...ends, transport: atDevice },
    ...deviceLinkTopics(federation, deviceId),
  });
  await createLink({
    ...{ ...shared, self: ends.peer, peer: ends.self, transport: atCoordinator, onRequest: echo },
    ...coordinatorLinkTopics(federation, deviceId),
  });
  const sent = noise(4_000_000, 9);
  const request = device.request({ kind: "big", blobs: new Map([["x", sent]]) });
  await until(() => device.counters().sentBytes > 1_000_000);
  hop.cut();
  hop.restore();
  await until(() => device.counters().sentBytes > 2_000_000);
  await broker.close();
  broker = await startBroker({ listeners: [{ port }], log: () => {} });
  t.ok(equal((await request).blobs.get("x"), sent));
  // Two interruptions, each with a window of four frames that may go out once more by the transport and once by the link.
  t.ok(device.counters().repeatedBytes <= 2 * 4 * 33_000, `${device.counters().repeatedBytes}`);
  await Promise.all([atDevice.close(), atCoordinator.close()]);
});

t.test("a request outlives the coordinator's process", async (t) => {
  const first: string[] = [];
  const world = await join(t, async (request) => {
    first.push(request.kind);
    return new Promise(() => {});
  });
  const request = world.device.request({
    kind: "upload",
    blobs: new Map([["x", noise(90_000, 3)]]),
  });
  await until(() => first.length > 0);
  await world.transports.coordinator.close({ will: "publish" });
  const again = await world.startCoordinator(async ({ kind, blobs }) => {
    return { kind: "done", fields: { kind, bytes: blobs.get("x")?.byteLength ?? 0 } };
  });
  t.strictSame((await request).fields, { kind: "upload", bytes: 90_000 });
  await again.close();
});

t.test("a device that restarts is not given its former process's answers", async (t) => {
  let release = () => {};
  const processed: unknown[] = [];
  const world = await join(t, async (request) => {
    processed.push(request.fields["process"]);
    if (request.fields["process"] === 1) {
      await new Promise<void>((resolve) => {
        release = resolve;
      });
    }
    return { kind: "echo", fields: request.fields };
  });
  const lost = world.device.request({ kind: "hello", fields: { process: 1 } }).catch(() => {});
  await until(() => processed.length > 0);
  await world.transports.device.close({ will: "publish" });
  await lost;
  const device = await world.startDevice();
  const request = device.request({ kind: "hello", fields: { process: 2 } });
  release();
  t.strictSame((await request).fields, { process: 2 });
  t.strictSame(processed, [1, 2], "the same sequence of another process is another request");
});

t.test("an envelope whose sender is not the topic's is dropped and logged", async (t) => {
  const log: string[] = [];
  const world = await join(t, echo, { log: (line) => log.push(line) });
  const transport = await world.hub.connect({ clientId: "liar" });
  const liar = await createLink({
    ...world.options,
    ...deviceLinkTopics(federation, deviceId),
    transport,
    self: "someone-else",
    peer: "coordinator",
  });
  const request = liar.request({ kind: "join" });
  await until(() => world.coordinator.counters().refusedEnvelopes > 0);
  t.match(log.join("\n"), /refused an envelope .*someone-else/);
  const rejected = t.rejects(request, { code: "LINK_CLOSED" });
  await liar.close();
  await rejected;
});

t.test("garbage on the topic is refused, logged and counted", async (t) => {
  const log: string[] = [];
  const world = await join(t, echo, { log: (line) => log.push(line) });
  const { outbound } = deviceLinkTopics(federation, deviceId);
  await world.transports.device.publish(outbound, Buffer.from("not a frame"));
  t.equal((await world.device.request({ kind: "still-here" })).kind, "echo");
  t.equal(world.coordinator.counters().refusedFrames, 1);
  t.match(log.join("\n"), /refused a frame/);
});

t.test("a peer that has too many open requests is told so", async (t) => {
  const { device } = await join(t, () => new Promise(() => {}));
  const requests = Array.from({ length: 65 }, () => device.request({ kind: "slow" }));
  await t.rejects(Promise.race(requests), { code: "LINK_OVERLOADED" });
  await device.close();
  await Promise.allSettled(requests);
});
