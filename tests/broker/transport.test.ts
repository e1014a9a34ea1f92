import { generate } from "mqtt-packet";
import t, { type Test } from "tap";
import {
  connectMqtt,
  createMemoryHub,
  type LastWill,
  startBroker,
  type Transport,
} from "../../broker/index.ts";
import {
  collect,
  connected,
  disconnected,
  mosquittoMissing,
  startHop,
  startMosquitto,
} from "./network.ts";

/** A client whose network can be taken away. */
interface Wired {
  readonly transport: Transport;
  cut(): void;
  restore(): void;
}

/** One way to build transports that the contract holds for. */
interface Harness {
  connect(clientId: string, will?: LastWill): Promise<Wired>;
  close(): Promise<void>;
}

const bytes = (text: string) => Buffer.from(text);
const will = { topic: "trifold/1/f/devices/a/status", bytes: bytes("lost") };

/** What every transport promises. */
const promises: Readonly<Record<string, (t: Test, harness: Harness) => Promise<void>>> = {
  "every byte value arrives": async (t, harness) => {
    const { transport } = await harness.connect("coordinator");
    const all = Uint8Array.from({ length: 256 }, (_, index) => index);
    const inbox = await collect(transport, "trifold/1/f/devices/a/up");
    await transport.publish("trifold/1/f/devices/a/up", all);
    await inbox.texts(1);
    t.strictSame([...(inbox.messages[0]?.bytes ?? [])], [...all]);
    await transport.close();
  },

  "messages keep their order and + matches one level": async (t, harness) => {
    const { transport } = await harness.connect("coordinator");
    const inbox = await collect(transport, "trifold/1/f/devices/+/up");
    const other = transport.publish("trifold/1/f/devices/a/down", bytes("not for this filter"));
    const sent = Array.from({ length: 50 }, (_, index) => `${index}`);
    await Promise.all([
      other,
      ...sent.map((text) => transport.publish("trifold/1/f/devices/a/up", bytes(text))),
    ]);
    t.strictSame(await inbox.texts(50), sent);
    await transport.close();
  },

  "a retained message reaches later subscribers, marked, until it is emptied": async (
    t,
    harness,
  ) => {
    const { transport } = await harness.connect("coordinator");
    const topic = "trifold/1/f/devices/r/status";
    await transport.publish(topic, bytes("birth"), { retain: true });
    const early = await collect(transport, "trifold/1/f/devices/+/status");
    t.strictSame(await early.texts(1), ["birth"]);
    t.equal(early.messages[0]?.retained, true);
    await transport.publish(topic, bytes(""), { retain: true });
    t.strictSame(await early.texts(2), ["birth", ""]);
    t.equal(early.messages[1]?.retained, false, "a live message is not marked");
    const late = await collect(transport, topic);
    await transport.publish(topic, bytes("live"));
    t.strictSame(await late.texts(1), ["live"], "nothing was retained any more");
    await transport.close();
  },

  "the will is published when the network is cut, and stays": async (t, harness) => {
    const watcher = await harness.connect("coordinator");
    const inbox = await collect(watcher.transport, will.topic);
    const device = await harness.connect("a", will);
    device.cut();
    t.strictSame(await inbox.texts(1), ["lost"]);
    const late = await collect(watcher.transport, "trifold/1/f/devices/+/status");
    t.strictSame(await late.texts(1), ["lost"]);
    await watcher.transport.publish(will.topic, bytes(""), { retain: true });
    await Promise.all([watcher.transport.close(), device.transport.close()]);
  },

  "the will is discarded by a clean close and published when asked": async (t, harness) => {
    const watcher = await harness.connect("coordinator");
    const inbox = await collect(watcher.transport, will.topic);
    const clean = await harness.connect("a", will);
    await clean.transport.close();
    const abrupt = await harness.connect("a", { ...will, bytes: bytes("asked") });
    await abrupt.transport.close({ will: "publish" });
    t.strictSame(await inbox.texts(1), ["asked"]);
    await watcher.transport.close();
  },

  "what is published while offline arrives after the reconnect, in order": async (t, harness) => {
    const { transport, cut, restore } = await harness.connect("coordinator");
    const inbox = await collect(transport, "trifold/1/f/devices/a/up");
    const gone = disconnected(transport);
    cut();
    await gone;
    t.equal(transport.connected, false);
    const sent = ["1", "2", "3"].map((text) =>
      transport.publish("trifold/1/f/devices/a/up", bytes(text)),
    );
    const back = connected(transport);
    restore();
    await Promise.all([back, ...sent]);
    t.strictSame(await inbox.texts(3), ["1", "2", "3"], "subscribed again before sending");
    await transport.close();
  },

  "a subscription made while offline is granted after the reconnect": async (t, harness) => {
    const { transport, cut, restore } = await harness.connect("coordinator");
    const gone = disconnected(transport);
    cut();
    await gone;
    const waiting = collect(transport, "trifold/1/f/devices/b/up");
    restore();
    const inbox = await waiting;
    await transport.publish("trifold/1/f/devices/b/up", bytes("heard"));
    t.strictSame(await inbox.texts(1), ["heard"]);
    await transport.close();
  },

  "a waiting message can be withdrawn, QoS 0 does not wait": async (t, harness) => {
    const { transport, cut, restore } = await harness.connect("coordinator");
    const inbox = await collect(transport, "trifold/1/f/devices/a/up");
    const gone = disconnected(transport);
    cut();
    await gone;
    const abort = new AbortController();
    const withdrawn = transport.publish("trifold/1/f/devices/a/up", bytes("withdrawn"), abort);
    abort.abort(new Error("changed my mind"));
    await t.rejects(withdrawn, { message: "changed my mind" });
    await t.rejects(transport.publish("x", bytes(""), { qos: 0 }), { code: "BROKER_UNREACHABLE" });
    restore();
    await transport.publish("trifold/1/f/devices/a/up", bytes("kept"));
    t.strictSame(await inbox.texts(1), ["kept"]);
    await transport.close();
  },

  "a new connection takes a client id over": async (t, harness) => {
    const first = await harness.connect("a");
    const gone = disconnected(first.transport);
    const second = await harness.connect("a");
    await gone;
    t.equal(first.transport.connected, false);
    await Promise.all([first.transport.close(), second.transport.close()]);
  },

  "an unsubscribed handler hears nothing more": async (t, harness) => {
    const { transport } = await harness.connect("coordinator");
    const topic = "trifold/1/f/devices/a/up";
    const stop = await transport.subscribe(topic, () => t.fail("still subscribed"));
    stop();
    stop();
    const inbox = await collect(transport, topic);
    await transport.publish(topic, bytes("1"));
    t.strictSame(await inbox.texts(1), ["1"]);
    await transport.close();
  },

  "closing rejects what waits, says so once, and may be repeated": async (t, harness) => {
    const { transport, cut } = await harness.connect("coordinator");
    const reasons: unknown[] = [];
    transport.onClosed((reason) => reasons.push(reason));
    cut();
    const waiting = transport.publish("trifold/1/f/devices/a/up", bytes("late"));
    const rejected = t.rejects(waiting, { code: "LINK_CLOSED" });
    await Promise.all([transport.close(), transport.close()]);
    await rejected;
    t.strictSame(reasons, [undefined]);
    await t.rejects(transport.publish("x", bytes("")), { code: "LINK_CLOSED" });
    await t.rejects(
      transport.subscribe("x", () => {}),
      { code: "LINK_CLOSED" },
    );
  },

  "the meter counts whole PUBLISH packets by the topic's last level": async (t, harness) => {
    const { transport } = await harness.connect("coordinator");
    const topic = "trifold/1/f/devices/meter/up";
    const inbox = await collect(transport, topic);
    // 200 bytes of payload: the length field takes two bytes.
    const payload = Buffer.alloc(200);
    await transport.publish(topic, payload);
    await inbox.texts(1);
    const shared = { cmd: "publish", topic, payload, dup: false, retain: false } as const;
    const packet = generate({ ...shared, qos: 1, messageId: 1 });
    const { sent, received } = transport.traffic.read();
    t.strictSame(sent.up, { packets: 1, bytes: packet.byteLength });
    t.strictSame(received.up, { packets: 1, bytes: packet.byteLength });
    t.equal(sent.status.packets + sent.down.packets, 0);
    await transport.close();
  },
};

t.test("in memory", async (t) => contract(t, memoryHarness()));
t.test("MQTT over the embedded broker", async (t) => {
  const broker = await startBroker({ log: () => {} });
  contract(
    t,
    mqttHarness(broker.port, () => broker.close()),
  );
});
t.test("MQTT over WebSockets of the embedded broker", async (t) => {
  const broker = await startBroker({ listeners: [{ scheme: "ws" }], log: () => {} });
  contract(
    t,
    mqttHarness(broker.port, () => broker.close(), "ws"),
  );
});
t.test("MQTT over Mosquitto", { skip: mosquittoMissing() ?? false }, async (t) => {
  const mosquitto = await startMosquitto(t.testdir());
  contract(
    t,
    mqttHarness(mosquitto.port, () => mosquitto.close()),
  );
});

function contract(t: Test, harness: Harness): void {
  t.teardown(() => harness.close());
  for (const [title, promise] of Object.entries(promises)) {
    t.test(title, (t) => promise(t, harness));
  }
}

function memoryHarness(): Harness {
  const hub = createMemoryHub();
  return {
    connect: async (clientId, lastWill) => {
      const options = lastWill === undefined ? {} : { will: () => lastWill };
      const transport = await hub.connect({ clientId, ...options });
      const restore = () => void hub.restore(transport);
      return { transport, cut: () => hub.cut(transport), restore };
    },
    close: () => hub.close(),
  };
}

function mqttHarness(port: number, stop: () => Promise<void>, scheme = "mqtt"): Harness {
  const closing: (() => Promise<void>)[] = [];
  return {
    connect: async (clientId, lastWill) => {
      const hop = await startHop(port);
      const transport = await connectMqtt({
        url: `${scheme}://127.0.0.1:${hop.port}`,
        clientId,
        log: () => {},
        backOff: { firstMs: 5, maxMs: 20 },
        ...(lastWill === undefined ? {} : { will: () => lastWill }),
      });
      closing.push(async () => {
        await transport.close();
        await hop.close();
      });
      return { transport, cut: hop.cut, restore: hop.restore };
    },
    close: async () => {
      await Promise.all(closing.map((close) => close()));
      await stop();
    },
  };
}
