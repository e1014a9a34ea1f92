// What the embedded broker retains, on disk.
import { join } from "node:path";
import t from "tap";
import { connectMqtt, startBroker, topicsOf } from "../../broker/index.ts";
import { collect } from "./network.ts";

t.test("what is retained outlives the broker, in a folder of its own", async (t) => {
  const persistence = join(t.testdir(), "retained");
  const topic = topicsOf("main").device("pi-4", "status");
  const first = await startBroker({ persistence, log: () => {} });
  const device = await connectMqtt({ url: first.url, clientId: "pi-4", log: () => {} });
  await device.publish(topic, Buffer.from("here"), { retain: true });
  await t.rejects(startBroker({ persistence, log: () => {} }), { code: "BROKER_STORE_UNUSABLE" });
  await device.close();
  await first.close();
  const second = await startBroker({ persistence, log: () => {} });
  t.teardown(() => second.close());
  const coordinator = await connectMqtt({
    url: second.url,
    clientId: "coordinator",
    log: () => {},
  });
  const heard = await collect(coordinator, topicsOf("main").everyDeviceStatus);
  t.same(await heard.texts(1), ["here"]);
  await coordinator.close();
});
