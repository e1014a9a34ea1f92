import { once } from "node:events";
import { connect as connectSocket, createServer } from "node:net";
import t, { type Test } from "tap";
import {
  type Broker,
  type BrokerOptions,
  connectMqtt,
  isLoopback,
  type MqttOptions,
  startBroker,
} from "../../broker/index.ts";
import { createCertificate, opensslMissing } from "./certificate.ts";
import { collect, listen, startHop } from "./network.ts";
import { openStream, rawClient } from "./raw-client.ts";

const up = "trifold/1/farm/devices/pi-4/up";
const down = "trifold/1/farm/devices/pi-4/down";
const credentials = new Map([
  ["coordinator", "master key"],
  ["pi-4", "board key"],
  ["pi-5", "other key"],
]);

t.test("a listener beyond loopback without credentials is refused", async (t) => {
  for (const host of ["0.0.0.0", "::", "192.168.1.4", "example.org", "127.0.0.1.evil.example"]) {
    await t.rejects(
      startBroker({ listeners: [{ host }], log }),
      { code: "BROKER_LISTENER_UNPROTECTED" },
      host,
    );
  }
  t.ok(["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"].every(isLoopback));
  const lines: string[] = [];
  const listeners = [{ host: "0.0.0.0" }];
  const options = { listeners, credentials, log: (line: string) => lines.push(line) };
  const broker = await startBroker(options);
  t.match(lines, [/in the clear/], "allowed with credentials, with a word of warning");
  await broker.close();
});

t.test("a taken port and a foreign address are said to be so", async (t) => {
  const other = createServer();
  const port = await listen(other);
  const listeners = [{ scheme: "ws" as const }, { port }];
  await t.rejects(startBroker({ listeners, log }), {
    code: "BROKER_PORT_TAKEN",
    message: `${port}`,
  });
  other.close();
  await t.rejects(startBroker({ listeners: [{ host: "192.0.2.1" }], credentials, log }), {
    code: "BROKER_LISTEN_FAILED",
  });
});

t.test("closing frees the port, ends connections and may be repeated", async (t) => {
  const broker = await startBroker({ log });
  const client = await rawClient(t, broker, "pi-4");
  t.strictSame(broker.clientIds(), ["pi-4"]);
  const ended = once(client.socket, "close");
  await Promise.all([broker.close(), broker.close(), ended]);
  const again = await startBroker({ listeners: [{ port: broker.port }], log });
  await again.close();
});

t.test("wrong credentials fail at once, right ones do not", async (t) => {
  const broker = await start(t, { credentials });
  const client = (options: Partial<MqttOptions>) =>
    connectMqtt({ url: broker.url, clientId: "pi-4", log, ...options });
  const refused = { code: "BROKER_CREDENTIALS_REFUSED", message: /pi-4|pi-5/ };
  await t.rejects(client({}), refused, "none");
  await t.rejects(client({ username: "pi-4", password: "guess" }), refused, "wrong password");
  await t.rejects(client({ username: "nobody", password: "" }), refused, "unknown user");
  await t.rejects(
    client({ clientId: "pi-5", username: "pi-4", password: "board key" }),
    refused,
    "another device's client id",
  );
  const right = await client({ username: "pi-4", password: "board key" });
  const { port } = broker;
  const inUrl = await client({ url: `mqtt://pi-4:board%20key@127.0.0.1:${port}` });
  await Promise.all([right.close(), inUrl.close()]);
});

t.test("credentials withdrawn later end the transport with their code", async (t) => {
  const changing = new Map(credentials);
  const broker = await start(t, { credentials: changing });
  const hop = await startHop(broker.port);
  const transport = await connectMqtt({
    url: `mqtt://127.0.0.1:${hop.port}`,
    clientId: "pi-4",
    username: "pi-4",
    password: "board key",
    log,
    backOff: { firstMs: 5, maxMs: 10 },
  });
  const closed = new Promise((resolve) => transport.onClosed(resolve));
  changing.delete("pi-4");
  hop.cut();
  hop.restore();
  t.match(await closed, { code: "BROKER_CREDENTIALS_REFUSED" });
  await hop.close();
});

t.test("an unreachable broker is tried again with a log line until it answers", async (t) => {
  const broker = await start(t, {});
  const hop = await startHop(broker.port);
  hop.cut();
  const lines: string[] = [];
  const connecting = connectMqtt({
    url: `mqtt://secret:word@127.0.0.1:${hop.port}`,
    clientId: "pi-4",
    backOff: { firstMs: 5, maxMs: 10 },
    log: (line) => {
      lines.push(line);
      if (lines.length === 3) {
        hop.restore();
      }
    },
  });
  const transport = await connecting;
  t.match(lines[0], /^BROKER_UNREACHABLE: .*mqtt:\/\/127\.0\.0\.1:\d+ .*next try in 0\.0 s/);
  t.notMatch(lines.join("\n"), /secret|word/);
  await transport.close();
  await hop.close();
});

t.test("waiting for a broker can be given up", async (t) => {
  const probe = createServer();
  const port = await listen(probe);
  probe.close();
  const abort = new AbortController();
  const url = `mqtt://127.0.0.1:${port}`;
  const connecting = connectMqtt({
    url,
    clientId: "pi-4",
    log: () => abort.abort(new Error("stop")),
    signal: abort.signal,
  });
  await t.rejects(connecting, { message: "stop" });
});

t.test("addresses and client options that cannot work are refused", async (t) => {
  const code = "BROKER_URL_INVALID";
  for (const url of ["", "localhost", "http://host", "mqtt://", "mqtt:host", "wss://"]) {
    await t.rejects(connectMqtt({ url, clientId: "a", log }), { code }, url);
  }
  const url = "mqtt://127.0.0.1:1";
  await t.rejects(connectMqtt({ url, clientId: "a", ca: "x", log }), {
    code,
    message: /encrypted/,
  });
  await t.rejects(connectMqtt({ url, clientId: "a/b", log }), { code: "BROKER_ID_INVALID" });
});

for (const scheme of ["mqtts", "wss"] as const) {
  const title = `TLS: its authority is trusted, no other: ${scheme}`;
  t.test(title, { skip: opensslMissing() ?? false }, async (t) => {
    const files = createCertificate(t.testdir());
    const listeners = [{ scheme }];
    const broker = await start(t, { listeners, tls: files, credentials });
    t.match(broker.url, `${scheme}:`);
    const base = {
      url: broker.url,
      clientId: "pi-4",
      username: "pi-4",
      password: "board key",
      log,
    };
    const transport = await connectMqtt({ ...base, ca: files.cert });
    const inbox = await collect(transport, down);
    const coordinator = await connectMqtt({
      ...base,
      clientId: "coordinator",
      username: "coordinator",
      password: "master key",
      ca: files.cert,
    });
    await coordinator.publish(down, Buffer.from("over TLS"));
    t.strictSame(await inbox.texts(1), ["over TLS"]);
    await t.rejects(connectMqtt(base), { code: "BROKER_CERTIFICATE_REFUSED" });
    const key = "-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----";
    const code = "BROKER_TLS_FILES_INVALID";
    await t.rejects(connectMqtt({ ...base, cert: files.cert, key }), { code });
    await t.rejects(startBroker({ listeners, tls: { cert: files.cert, key }, log }), { code });
    await t.rejects(startBroker({ listeners, log }), { code }, "no files at all");
    await Promise.all([transport.close(), coordinator.close()]);
  });
}

t.test("one broker listens in several ways, and messages cross between them", async (t) => {
  const broker = await start(t, { listeners: [{}, { scheme: "ws" }] });
  t.match(broker.listeners, [{ url: /^mqtt:/ }, { url: /^ws:.*[/]mqtt$/ }]);
  const [tcp, webSocket] = broker.listeners;
  const device = await connectMqtt({ url: webSocket?.url ?? "", clientId: "pi-4", log });
  const coordinator = await connectMqtt({ url: tcp?.url ?? "", clientId: "coordinator", log });
  const inbox = await collect(device, down);
  await coordinator.publish(down, Buffer.from("across"));
  t.strictSame(await inbox.texts(1), ["across"]);
  t.strictSame([...broker.clientIds()].sort(), ["coordinator", "pi-4"]);
  await Promise.all([device.close(), coordinator.close()]);
});

t.test("a stream inside the process is the coordinator without a password", async (t) => {
  const broker = await start(t, { credentials });
  const status = "trifold/1/farm/coordinator/status";
  const will = () => ({ topic: status, bytes: Buffer.from("lost") });
  const inside = { url: broker.url, open: broker.openInside, clientId: "coordinator", will, log };
  const asDevice = { username: "pi-4", password: "board key" };
  const device = await connectMqtt({ url: broker.url, clientId: "pi-4", ...asDevice, log });
  const [commands, statuses] = [await collect(device, down), await collect(device, status)];
  const clean = await connectMqtt(inside);
  await clean.publish(down, Buffer.alloc(500_000, "x"));
  t.match(await commands.texts(1), [/^x{500000}$/]);
  await clean.close();
  const abrupt = await connectMqtt(inside);
  await abrupt.publish(status, Buffer.from("online"));
  await statuses.texts(1);
  await abrupt.close({ will: "publish" });
  t.strictSame(await statuses.texts(2), ["online", "lost"], "a clean end discards the will");
  await t.rejects(connectMqtt({ url: broker.url, clientId: "coordinator", log }), {
    code: "BROKER_CREDENTIALS_REFUSED",
  });
  await device.close();
});

t.test("the rules are enforced, and denials logged with who and what", async (t) => {
  const lines: string[] = [];
  const broker = await start(t, { log: (line) => lines.push(line) });
  const device = await connectMqtt({ url: broker.url, clientId: "pi-4", log });
  await t.rejects(
    device.subscribe(up, () => {}),
    { code: "BROKER_SUBSCRIPTION_REFUSED", message: /pi-4.*\/up/ },
  );
  const coordinator = await connectMqtt({ url: broker.url, clientId: "coordinator", log });
  const inbox = await collect(coordinator, "#");
  const forged = await rawClient(t, broker, "pi-5");
  forged.send({
    cmd: "publish",
    topic: up,
    payload: "forged",
    qos: 1,
    messageId: 1,
    dup: false,
    retain: false,
  });
  await forged.closed;
  await device.publish(up, Buffer.from("own"));
  t.strictSame(await inbox.texts(1), ["own"], "the forged message went nowhere");
  t.match(lines.join("\n"), /refused pi-4 \(127\.0\.0\.1\) to read .*\/up/);
  t.match(lines.join("\n"), /refused pi-5 \(127\.0\.0\.1\) to publish to .*pi-4\/up/);
  await Promise.all([device.close(), coordinator.close()]);
});

t.test("a will is held to the same rules", async (t) => {
  const lines: string[] = [];
  const broker = await start(t, { log: (line) => lines.push(line) });
  const coordinator = await connectMqtt({ url: broker.url, clientId: "coordinator", log });
  const inbox = await collect(coordinator, "trifold/1/farm/devices/+/status");
  const will = (deviceId: string) => ({
    topic: `trifold/1/farm/devices/${deviceId}/status`,
    payload: Buffer.from(`will of ${deviceId}`),
    qos: 1 as const,
    retain: true,
  });
  const forger = await rawClient(t, broker, "pi-5", will("pi-4"));
  forger.socket.destroy();
  const honest = await rawClient(t, broker, "pi-4", will("pi-4"));
  honest.socket.destroy();
  t.strictSame(await inbox.texts(1), ["will of pi-4"]);
  t.match(lines.join("\n"), /refused pi-5.*publish/);
  await coordinator.close();
});

for (const scheme of ["mqtt", "ws"] as const) {
  const listeners = [{ scheme }];

  t.test(`a stranger may declare 4 KB, a client 1 MB: ${scheme}`, async (t) => {
    const lines: string[] = [];
    const broker = await start(t, { listeners, log: (line) => lines.push(line) });
    const stranger = openStream(broker.url);
    stranger.on("error", () => {});
    // A CONNECT that declares 256 MB, the most that MQTT can.
    stranger.write(Buffer.of(0x10, 0xff, 0xff, 0xff, 0x7f));
    await once(stranger.resume(), "close");
    const known = await rawClient(t, broker, "pi-4");
    // A PUBLISH that declares 1 MB and a byte.
    known.socket.write(Buffer.of(0x32, 0x81, 0x80, 0x40));
    await known.closed;
    t.match(lines.join("\n"), /exceeds the limit of 4096[\s\S]*exceeds the limit of 1048576/);
    const fits = await rawClient(t, broker, "pi-4");
    const payload = Buffer.alloc(1024 * 1024 - 100);
    const message = { qos: 1, messageId: 9, dup: false, retain: false } as const;
    fits.send({ cmd: "publish", topic: up, payload, ...message });
    t.match(await fits.next("puback"), { messageId: 9 });
  });

  t.test(`a socket that says nothing is closed: ${scheme}`, async (t) => {
    const broker = await start(t, { listeners, connectTimeoutMs: 20 });
    const mute = connectSocket(broker.port, "127.0.0.1");
    const silent = openStream(broker.url);
    silent.on("error", () => {});
    await Promise.all([once(mute.resume(), "close"), once(silent.resume(), "close")]);
  });

  t.test(`garbage ends its own connection only: ${scheme}`, async (t) => {
    const broker = await start(t, { listeners });
    const device = await connectMqtt({ url: broker.url, clientId: "pi-4", log });
    for (const open of [() => connectSocket(broker.port), () => openStream(broker.url)]) {
      for (const bytes of ["GET / HTTP/1.1\r\n\r\n", "\0\0", "\x82\0\r\n\r\n"]) {
        const socket = open();
        socket.on("error", () => {});
        socket.write(Buffer.from(bytes, "latin1"));
        await once(socket.resume(), "close");
      }
    }
    await device.publish(up, Buffer.from("still here"));
    await device.close();
  });

  t.test(`a frozen subscriber does not stall another topic: ${scheme}`, async (t) => {
    const broker = await start(t, { listeners });
    const frozen = await rawClient(t, broker, "pi-5");
    const frozenDown = "trifold/1/farm/devices/pi-5/down";
    const subscriptions = [{ topic: frozenDown, qos: 0 as const }];
    frozen.send({ cmd: "subscribe", messageId: 1, subscriptions });
    await frozen.next("suback");
    frozen.socket.pause();
    const coordinator = await connectMqtt({ url: broker.url, clientId: "coordinator", log });
    const device = await connectMqtt({ url: broker.url, clientId: "pi-4", log });
    const inbox = await collect(device, down);
    // 200 x 64 KB is more than the kernel's buffers on both ends of a loopback connection hold.
    const bulk = Buffer.alloc(64 * 1024);
    const stuck = Array.from({ length: 200 }, () => coordinator.publish(frozenDown, bulk));
    const sent = Array.from({ length: 79 }, (_, index) => `${index}`);
    for (const text of sent) {
      await coordinator.publish(down, Buffer.from(text));
    }
    t.strictSame(await inbox.texts(79), sent);
    await Promise.all(stuck);
    await Promise.all([coordinator.close(), device.close()]);
  });

  t.test(`a kilobyte goes there and back at QoS 1 without Nagle's delay: ${scheme}`, async (t) => {
    const broker = await start(t, { listeners });
    const coordinator = await connectMqtt({ url: broker.url, clientId: "coordinator", log });
    const device = await connectMqtt({ url: broker.url, clientId: "pi-4", log });
    await device.subscribe(down, ({ bytes }) => void device.publish(up, bytes));
    const inbox = await collect(coordinator, up);
    const timesMs: number[] = [];
    for (let round = 1; round <= 50; round += 1) {
      const startMs = performance.now();
      await coordinator.publish(down, Buffer.alloc(1024));
      await inbox.texts(round);
      timesMs.push(performance.now() - startMs);
    }
    timesMs.sort((a, b) => a - b);
    t.comment(`median ${timesMs[25]?.toFixed(2)} ms there and back`);
    // A PUBACK and a PUBLISH follow each other, so Nagle's algorithm makes the median 40 ms or more.
    t.ok((timesMs[25] ?? 99) < 30, "no-delay is on at both ends");
    await Promise.all([coordinator.close(), device.close()]);
  });
}

t.test("a persistent session is not kept", async (t) => {
  const broker = await start(t, {});
  const first = await rawClient(t, broker, "pi-4", undefined, false);
  first.send({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic: down, qos: 1 }] });
  await first.next("suback");
  first.socket.destroy();
  await first.closed;
  const again = await rawClient(t, broker, "pi-4", undefined, false);
  t.equal(again.sessionPresent, false);
});

function log(): void {}

async function start(t: Test, options: Partial<BrokerOptions>): Promise<Broker> {
  const broker = await startBroker({ log, ...options });
  t.teardown(() => broker.close());
  return broker;
}
