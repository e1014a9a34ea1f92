import t, { type Test } from "tap";
import {
  announcePresence,
  connectMqtt,
  createMemoryHub,
  type PeerStatus,
  presenceWill,
  startBroker,
  type Transport,
  topicsOf,
  watchPeer,
  watchPresence,
} from "../../broker/index.ts";
import type { TrifoldError } from "../../runtime/index.ts";
import { connected, startHop } from "./network.ts";

const topics = topicsOf("farm");
const topic = topics.device("pi-4", "status");

t.test("topics and ids are checked and taken apart", (t) => {
  t.equal(topic, "trifold/1/farm/devices/pi-4/status");
  for (const bad of ["", "a/b", "a+b", "a b", "ä", "x".repeat(65)]) {
    t.throws(() => topics.device(bad, "up"), { code: "BROKER_ID_INVALID" });
    t.throws(() => topicsOf(bad), { code: "BROKER_ID_INVALID" });
  }
  t.throws(() => topics.device("coordinator", "up"), { code: "BROKER_ID_INVALID" });
  t.end();
});

t.test("a device is online, then offline after a clean stop, with its details", async (t) => {
  const { devices, changes } = await watch(t);
  const device = await devices.start({ counter: 4, details: { board: "Pi 4" } });
  await changes.until((status) => status?.state === "online");
  t.strictSame(device.watched(), {
    state: "online",
    instance: device.instance,
    counter: 4,
    connection: 1,
    version: "0.1.0",
    details: { board: "Pi 4" },
  });
  await device.presence.update({ board: "Pi 4", round: 2 });
  await changes.until((status) => status?.details["round"] === 2);
  await device.presence.close();
  await device.presence.close();
  await device.transport.close();
  await changes.until((status) => status?.state === "offline");
});

t.test("a device that vanishes is lost, and online again after its reconnect", async (t) => {
  const { devices, changes, hub } = await watch(t);
  const device = await devices.start({});
  await changes.until((status) => status?.state === "online");
  hub.cut(device.transport);
  await changes.until((status) => status?.state === "lost");
  await hub.restore(device.transport);
  const back = await changes.until((status) => status?.state === "online");
  t.equal(back?.connection, 2);
});

t.test("a restarted device takes over from its former process", async (t) => {
  const { devices, changes } = await watch(t);
  const former = await devices.start({ counter: 1 });
  await former.transport.close({ will: "publish" });
  await changes.until((status) => status?.state === "lost");
  const device = await devices.start({ counter: 2 });
  const status = await changes.until((now) => now?.state === "online" && now.counter === 2);
  t.equal(status?.instance, device.instance);
  t.strictSame(device.replaced, []);
});

t.test("a will that arrives late neither misleads the watcher nor stands", async (t) => {
  const { devices, changes, hub } = await watch(t);
  const former = await devices.start({ counter: 1 });
  await former.transport.close({ will: "publish" });
  const device = await devices.start({ counter: 2 });
  await changes.until((status) => status?.state === "online" && status.counter === 2);
  const seen = changes.all.length;
  const late = presenceWill(former.identity)(1);
  const bridge = await hub.connect({ clientId: "slow-bridge" });
  await bridge.publish(late.topic, late.bytes, { retain: true });
  await changes.until((status) => status?.state === "online");
  t.equal(changes.all.length, seen + 1, "the watcher ignored it, the device repaired the topic");
  t.equal(device.watched()?.counter, 2);
  const reader = collectChanges();
  await watchPeer({ transport: bridge, topic, log: () => {}, onChange: reader.add });
  t.match(await reader.until(() => true), { state: "online", counter: 2 }, "what is retained");
});

t.test("of two live processes with one id the replaced one stops, in memory", async (t) => {
  const { devices, hub } = await watch(t);
  const first = await devices.start({});
  const second = await devices.start({});
  await hub.restore(first.transport);
  const reason = await first.isReplaced;
  t.match(reason, { code: "DEVICE_ID_IN_USE", message: /pi-4/ });
  await first.transport.close();
  const back = connected(second.transport);
  await hub.restore(second.transport);
  await back;
  t.strictSame(second.replaced, [], "the newcomer stays");
});

t.test("of two live processes with one id the replaced one stops, over MQTT", async (t) => {
  const broker = await startBroker({ log: () => {} });
  t.teardown(() => broker.close());
  const first = await startDevice(t, await overMqtt(t, broker.port));
  const second = await startDevice(t, await overMqtt(t, broker.port));
  t.match(await first.isReplaced, { code: "DEVICE_ID_IN_USE" });
  await first.transport.close();
  if (!second.transport.connected) {
    await connected(second.transport);
  }
  const { coordinator, changes } = await watchOverMqtt(broker.url);
  const status = await changes.until((now) => now?.state === "online");
  t.equal(status?.instance, second.instance, "the newcomer stands");
  t.strictSame(second.replaced, []);
  await Promise.all([second.transport.close(), coordinator.close()]);
});

t.test("presence comes back by itself when the network does, over MQTT", async (t) => {
  const broker = await startBroker({ log: () => {} });
  const hop = await startHop(broker.port);
  t.teardown(async () => {
    await hop.close();
    await broker.close();
  });
  const device = await startDevice(t, await overMqtt(t, hop.port));
  const { coordinator, changes } = await watchOverMqtt(broker.url);
  await changes.until((status) => status?.state === "online");
  hop.cut();
  await changes.until((status) => status?.state === "lost");
  hop.restore();
  const back = await changes.until((status) => status?.state === "online");
  t.equal(back?.instance, device.instance);
  t.equal(back?.connection, device.transport.connection);
  await Promise.all([device.transport.close(), coordinator.close()]);
});

t.test("a foreign status is ignored and logged, an erased one reported", async (t) => {
  const log: string[] = [];
  const { changes, hub } = await watch(t, log);
  const someone = await hub.connect({ clientId: "someone" });
  for (const text of ["{", "null", '{"state":"online"}', `"${"x".repeat(70_000)}"`]) {
    await someone.publish(topic, Buffer.from(text), { retain: true });
  }
  await someone.publish(topic, Buffer.alloc(0), { retain: true });
  t.equal(await changes.until((status) => status === undefined), undefined);
  t.equal(changes.all.length, 1);
  t.equal(log.length, 4);
});

/** A hub with the coordinator watching it. */
async function watch(t: Test, log: string[] = []) {
  const hub = createMemoryHub();
  t.teardown(() => hub.close());
  const changes = collectChanges();
  const watching = await watchPresence({
    transport: await hub.connect({ clientId: "coordinator" }),
    topics,
    onChange: (deviceId, status) => {
      t.equal(deviceId, "pi-4");
      changes.add(status);
    },
    log: (line) => log.push(line),
  });
  const start = async (options: StartOptions) => {
    const identity = createIdentity(options.counter ?? 1);
    const transport = await hub.connect({ clientId: "pi-4", will: presenceWill(identity) });
    const device = await startDevice(t, { transport, identity }, options);
    return { ...device, watched: () => watching.devices.get("pi-4") };
  };
  return { hub, changes, devices: { start } };
}

interface StartOptions {
  readonly counter?: number;
  readonly details?: Record<string, unknown>;
}

let instances = 0;

function createIdentity(counter: number) {
  instances += 1;
  return { topic, instance: `instance-${instances}`, counter, version: "0.1.0" };
}

/** A coordinator that follows the device. */
async function watchOverMqtt(url: string) {
  const coordinator = await connectMqtt({ url, clientId: "coordinator", log: () => {} });
  const changes = collectChanges();
  await watchPeer({ transport: coordinator, topic, log: () => {}, onChange: changes.add });
  return { coordinator, changes };
}

async function overMqtt(t: Test, port: number) {
  const identity = createIdentity(1);
  const transport = await connectMqtt({
    url: `mqtt://127.0.0.1:${port}`,
    clientId: "pi-4",
    will: presenceWill(identity),
    log: () => {},
    backOff: { firstMs: 20, maxMs: 40 },
  });
  t.teardown(() => transport.close());
  return { transport, identity };
}

async function startDevice(
  t: Test,
  { transport, identity }: { transport: Transport; identity: ReturnType<typeof createIdentity> },
  { details = {} }: StartOptions = {},
) {
  const replaced: TrifoldError[] = [];
  let resolveReplaced = (_reason: TrifoldError) => {};
  const isReplaced = new Promise<TrifoldError>((resolve) => {
    resolveReplaced = resolve;
  });
  const presence = await announcePresence({
    transport,
    identity,
    details,
    log: (line) => t.comment(line),
    onReplaced: (reason) => {
      replaced.push(reason);
      resolveReplaced(reason);
    },
  });
  return { transport, identity, instance: identity.instance, presence, replaced, isReplaced };
}

function collectChanges() {
  const all: (PeerStatus | undefined)[] = [];
  let next = 0;
  let wake = () => {};
  return {
    all,
    add: (status: PeerStatus | undefined) => {
      all.push(status);
      wake();
    },
    /** The first change not looked at yet that fits. */
    until: async (fits: (status: PeerStatus | undefined) => boolean) => {
      for (;;) {
        while (next < all.length) {
          const status = all[next];
          next += 1;
          if (fits(status)) {
            return status;
          }
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
  };
}
