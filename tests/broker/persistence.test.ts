// What the embedded broker still knows after it was stopped or killed, when it has a folder for that.
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { type BrokerOptions, connectMqtt, startBroker, topicsOf } from "../../broker/index.ts";
import { startTrifold } from "../apps/program.ts";
import { collect } from "./network.ts";
import { rawClient } from "./raw-client.ts";

const topics = topicsOf("farm");
const log = () => {};
const retain = { retain: true } as const;

t.test("retained statuses are back after a restart, erased ones are not", async (t) => {
  const persistence = join(t.testdir(), "broker");
  const first = await startBroker({ persistence, log });
  const reader = await connectMqtt({ url: first.url, clientId: "coordinator", log });
  const heard = await collect(reader, topics.everyDeviceStatus);
  for (const id of ["pi-3", "pi-4"]) {
    const device = await connectMqtt({ url: first.url, clientId: id, log });
    for (const text of ["old", `status of ${id}`, ...(id === "pi-3" ? [""] : [])]) {
      await device.publish(topics.device(id, "status"), Buffer.from(text), retain);
    }
    await device.close();
  }
  // aedes acknowledges before it stores, and passes on after it.
  await heard.texts(5);
  await reader.close();
  await first.close();
  const second = await start(t, { persistence });
  // In the order of their topics: pi-3 would come first.
  t.same(await statuses(second.url, 1), ["pi-4: status of pi-4"]);
});

t.test("after kill -9 statuses are back, and who does not come back is lost", async (t) => {
  const persistence = join(t.testdir(), "broker");
  const place = ["--listen", "mqtt://127.0.0.1:0", "--persistence", persistence];
  const killed = startTrifold(["broker", "--anonymous", "--json", ...place]);
  const [line] = await once(killed.process.stdout as NodeJS.ReadableStream, "data");
  const { url } = JSON.parse(String(line)) as { readonly url: string };
  const will = (id: string) => ({
    topic: topics.device(id, "status"),
    payload: Buffer.from("lost"),
    qos: 1 as const,
    retain: true,
  });
  await rawClient(t, { url }, "pi-4", will("pi-4"));
  await rawClient(t, { url }, "pi-6", will("pi-5"));
  const writer = await connectMqtt({ url, clientId: "coordinator", log });
  for (const id of ["pi-4", "pi-5"]) {
    await writer.publish(topics.device(id, "status"), Buffer.from("online"), retain);
  }
  await writer.close();
  // What it gives away is stored.
  await statuses(url, 2);
  killed.process.kill("SIGKILL");
  await killed.finished;

  const quick = await startBroker({ persistence, log });
  t.same(await statuses(quick.url, 2), ["pi-4: online", "pi-5: online"]);
  await quick.close();
  const lines: string[] = [];
  const broker = await start(t, {
    persistence,
    lostAfterMs: 40,
    log: (line) => lines.push(line),
  });
  const reader = await connectMqtt({ url: broker.url, clientId: "coordinator", log });
  await new Promise<void>((resolve) => {
    void reader.subscribe(topics.device("pi-4", "status"), ({ bytes }) => {
      if (Buffer.from(bytes).toString() === "lost") resolve();
    });
  });
  t.match(lines.join("\n"), /refused .* to publish to .*pi-5\/status: .*only under its own id/);
  t.same(await statuses(broker.url, 2), ["pi-4: lost", "pi-5: online"], "a forged will is none");
  await reader.close();
});

t.test("a folder that is in use, or is none, is refused with what to do", async (t) => {
  const persistence = join(t.testdir(), "broker");
  await start(t, { persistence });
  const code = "BROKER_STORE_UNUSABLE";
  await t.rejects(startBroker({ persistence, log }), { code });
  const file = join(t.testdir(), "file");
  writeFileSync(file, "");
  await t.rejects(startBroker({ persistence: file, log }), { code });
});

async function start(t: Test, options: Partial<BrokerOptions>) {
  const broker = await startBroker({ log, ...options });
  t.teardown(() => broker.close());
  return broker;
}

/** The first `count` retained statuses of devices. */
async function statuses(url: string, count: number): Promise<string[]> {
  const reader = await connectMqtt({ url, clientId: "coordinator", log });
  const inbox = await collect(reader, topics.everyDeviceStatus);
  await inbox.texts(count);
  await reader.close();
  return inbox.messages.map(({ topic, bytes }) => {
    return `${topic.split("/").at(-2)}: ${Buffer.from(bytes).toString()}`;
  });
}
