// What a subscription is sent of what is retained, with Aedes' own store as the authority.
import { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import t from "tap";
import { connectMqtt, startBroker } from "../../broker/index.ts";
import { indexRetained, type RetainedStore } from "../../broker/retained-index.ts";
import { collect } from "./network.ts";

t.test("topics are looked up, filters with wildcards are searched for in the store", async (t) => {
  const searched: (readonly string[])[] = [];
  const kept: string[] = [];
  const store: RetainedStore = {
    storeRetained: ({ topic }) => kept.push(topic),
    createRetainedStreamCombi: (filters) => {
      searched.push(filters);
      return Readable.from([]);
    },
  };
  indexRetained(store);
  const packet = (topic: string, text: string) => ({ topic, payload: Buffer.from(text) });
  store.storeRetained(packet("a/b", "first"));
  store.storeRetained(packet("a/b", "second"));
  store.storeRetained(packet("a/c", "gone"));
  store.storeRetained(packet("a/c", ""));
  const found = await store.createRetainedStreamCombi(["a/b", "a/c", "a"]).toArray();
  t.match(found, [{ topic: "a/b", payload: Buffer.from("second") }]);
  t.equal(found.length, 1);
  t.strictSame(searched, []);
  await store.createRetainedStreamCombi(["a/b", "a/+"]).toArray();
  await store.createRetainedStreamCombi(["#"]).toArray();
  t.strictSame(searched, [["a/b", "a/+"], ["#"]]);
  t.strictSame(kept, ["a/b", "a/b", "a/c", "a/c"], "the store has it all");
});

t.test(
  "a subscriber gets the last one that is retained, once, and none that was erased",
  async (t) => {
    const broker = await startBroker({ log: () => {} });
    const log = () => {};
    const coordinator = await connectMqtt({ url: broker.url, clientId: "coordinator", log });
    t.teardown(() => coordinator.close().then(() => broker.close()));
    const topic = (id: string) => `trifold/1/main/devices/${id}/status`;
    const retain = { retain: true };
    for (const [id, text] of [
      ["a", "1"],
      ["a", "2"],
      ["b", "3"],
      ["b", ""],
    ] as const)
      await coordinator.publish(topic(id), Buffer.from(text), retain);
    for (const filters of [[topic("a"), topic("b")], [topic("+")]]) {
      const reader = await connectMqtt({ url: broker.url, clientId: "dashboard", log });
      const inboxes = await Promise.all(filters.map((filter) => collect(reader, filter)));
      await inboxes[0]?.texts(1);
      // Nothing more may come.
      await delay(50);
      const messages = inboxes.flatMap((inbox) => inbox.messages);
      const texts = messages.map(({ bytes }) => Buffer.from(bytes).toString());
      t.strictSame(texts, ["2"], filters.join(" "));
      await reader.close();
    }
  },
);
