// Input that no honest peer sends: `npm run bench -- transport --only malformed` tries a hundred thousand.
import t from "tap";
import { tryMalformed } from "../../benchmarks/transport/malformed.ts";
import { startBroker } from "../../broker/index.ts";
import { rawClient } from "./raw-client.ts";

t.test("whatever comes ends in a coded error, and honest peers are still served", async (t) => {
  const result = await tryMalformed({ cases: 3000, seed: 1, log: () => {} });
  t.same(result.failures, []);
  t.ok(result.tried >= 3000, `${result.tried}`);
  t.match(result.byKind, { frames: 1350, envelopes: 1200, link: 420, broker: 30 });
});

t.test("a client that never releases what it sends at QoS 2 is dropped", async (t) => {
  const lines: string[] = [];
  const broker = await startBroker({ log: (line) => lines.push(line) });
  t.teardown(() => broker.close());
  const greedy = await rawClient(t, broker, "pi-4");
  const topic = "trifold/1/farm/devices/pi-4/up";
  const payload = Buffer.alloc(1000);
  for (let messageId = 1; messageId <= 9; messageId += 1)
    greedy.send({ cmd: "publish", topic, payload, messageId, qos: 2, dup: false, retain: false });
  await greedy.closed;
  t.match(lines.join("\n"), /dropped pi-4.*maxInflightInbound exceeded: 8/);
});
