// The heartbeat of a status, on a clock that the test moves, and what a board's load is read from.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import t from "tap";
import { type Heartbeat, heartbeatSchema, withHeartbeat } from "../../apps/heartbeat.ts";
import {
  announcePresence,
  createMemoryHub,
  type PeerStatus,
  type StatusDetails,
  topicsOf,
  watchPresence,
} from "../../broker/index.ts";
import { openLoadMeter } from "../../devices/index.ts";
import { createManualClock } from "../broker/manual-clock.ts";

const queues = { queuedMessages: 0, queuedBytes: 0, openRequests: 0, openRequestBytes: 0 };

/** A presence that notes what it is told, and may keep it waiting. */
function beating(publish: () => Promise<void> = async () => {}) {
  const clock = createManualClock();
  const told: StatusDetails[] = [];
  let readings = 0;
  const presence = withHeartbeat({
    presence: {
      update: (details) => {
        told.push(details);
        return publish();
      },
      close: async () => {},
    },
    details: { activity: "idle" },
    intervalMs: 30_000,
    read: async (): Promise<Heartbeat> => {
      readings += 1;
      return { ...queues, queuedMessages: readings };
    },
    clock,
    log: (line) => t.fail(line),
  });
  return { clock, told, presence, readings: () => readings };
}

t.test("it is shown at once and every 30 s, and not read in between", async (t) => {
  const { clock, told, presence, readings } = beating();
  const beat = (queuedMessages: number) => ({ ...queues, queuedMessages });
  await turn();
  t.same(told.splice(0), [{ activity: "idle", heartbeat: beat(1) }]);
  await presence.update({ activity: "full" });
  t.same(told.splice(0), [{ activity: "full", heartbeat: beat(1) }]);
  clock.advance(29_999);
  await turn();
  t.equal(readings(), 1);
  clock.advance(1);
  await turn();
  t.same(told.splice(0), [{ activity: "full", heartbeat: beat(2) }]);
  await presence.close();
  clock.advance(90_000);
  await turn();
  t.equal(readings(), 2, "none after the end");
});

t.test("while one waits for the broker no other is added", async (t) => {
  let release = () => {};
  const { clock, told } = beating(
    () =>
      new Promise((resolve) => {
        release = resolve;
      }),
  );
  await turn();
  clock.advance(600_000);
  await turn();
  t.equal(told.length, 1);
  release();
  await turn();
  clock.advance(30_000);
  await turn();
  t.equal(told.length, 2);
});

t.test("who watches the statuses sees it, and the same device all along", async (t) => {
  const hub = createMemoryHub();
  t.teardown(() => hub.close());
  const topics = topicsOf("farm");
  const log = () => {};
  const seen: PeerStatus[] = [];
  let onSeen = () => {};
  const beats = new Promise<void>((resolve) => {
    onSeen = resolve;
  });
  const watch = await watchPresence({
    transport: await hub.connect({ clientId: "coordinator" }),
    topics,
    onChange: (_, status) => {
      if (status) seen.push(status);
      if (status?.details["heartbeat"]) onSeen();
    },
    log,
  });
  const transport = await hub.connect({ clientId: "a" });
  const topic = topics.device("a", "status");
  const identity = { topic, instance: "0123", counter: 1, version: "1" };
  const details = { activity: "idle" };
  const options = { transport, identity, details, onReplaced: () => {}, log };
  const announced = await announcePresence(options);
  const clock = createManualClock();
  const load = openLoadMeter();
  const read = async () => ({ ...(await load.read()), ...queues });
  const presence = withHeartbeat({
    presence: announced,
    details,
    intervalMs: 1000,
    read,
    clock,
    log,
  });
  await beats;
  t.equal(seen[0]?.details["heartbeat"], undefined, "birth does not wait for a reading");
  const heartbeat = heartbeatSchema.parse(seen.at(-1)?.details["heartbeat"]);
  t.ok((heartbeat.totalBytes as number) > (heartbeat.availableBytes as number));
  await presence.close();
  watch.close();
});

t.test("the load is the share of time since the last reading that was not idle", async (t) => {
  const root = t.testdir();
  mkdirSync(join(root, "proc"));
  const stat = (line: string) =>
    writeFileSync(join(root, "proc", "stat"), `cpu  ${line}\ncpu0 1 1\n`);
  const meter = openLoadMeter(root);
  t.same(await meter.read(), {}, "what cannot be read is absent");
  stat("10 0 10 70 10 0 0 0 5 0");
  t.match(await meter.read(), { cpuFraction: 0.2 });
  stat("100 0 40 140 20 0 0 0 95 0");
  t.match(await meter.read(), { cpuFraction: 0.6 });
});
