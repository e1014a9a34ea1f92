// The device's link probe over a real broker. Figures of a loopback link are not asserted beyond being
// figures: timing never decides a test.
import t, { type Test } from "tap";
import { measureLink } from "../../apps/device/link-probe.ts";
import { connectMqtt, startBroker } from "../../broker/index.ts";

const log = () => {};

t.test("a device times its link on a topic of its own", async (t) => {
  const { transport, probe } = await connected(t);
  const before = transport.traffic.read().sent.other.bytes;
  const link = await measureLink({ ...probe, signal: new AbortController().signal });
  for (const [name, figure] of Object.entries(link)) {
    t.ok(Number.isFinite(figure) && figure > 0, `${name} is ${figure}`);
  }
  const sentBytes = transport.traffic.read().sent.other.bytes - before;
  t.ok(sentBytes >= 64 * 1024, "at least one transfer was made");
  t.ok(sentBytes <= 8.1 * 1024 * 1024, "and no more than is promised");
});

t.test("a probe ends when it is told to", async (t) => {
  const { probe } = await connected(t);
  const reason = new Error("enough");
  await t.rejects(measureLink({ ...probe, signal: AbortSignal.abort(reason) }), reason);
});

t.test("another device's probe topic is refused", async (t) => {
  const { probe } = await connected(t);
  const signal = new AbortController().signal;
  await t.rejects(measureLink({ ...probe, deviceId: "other", signal }), {
    code: "BROKER_SUBSCRIPTION_REFUSED",
  });
});

async function connected(t: Test) {
  const broker = await startBroker({ log });
  t.teardown(() => broker.close());
  const transport = await connectMqtt({ url: broker.url, clientId: "board", log });
  t.teardown(() => transport.close());
  return { transport, probe: { transport, federation: "main", deviceId: "board" } };
}
