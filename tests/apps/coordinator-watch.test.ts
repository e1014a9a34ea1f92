// What a device learns from its coordinator's status.
import t, { type Test } from "tap";
import { watchCoordinator } from "../../apps/device/coordinator-watch.ts";
import {
  announcePresence,
  createMemoryHub,
  presenceWill,
  type StatusDetails,
  topicsOf,
} from "../../broker/index.ts";
import { settle } from "../broker/peers.ts";

const federation = "farm";

t.test("a device that missed the end of its run reads it", async (t) => {
  const { watched, startCoordinator } = await world(t, () => "wheat");
  const coordinator = await startCoordinator({ task: "wheat" });
  await coordinator.presence.update({ task: "wheat", finished: true });
  await settle();
  t.strictSame(watched, { log: [], finished: 0 }, "it may still be told");
  await coordinator.presence.close({ task: "wheat", finished: true });
  await settle();
  t.match(watched, { log: [/has ended task "wheat" and left/], finished: 1 });
});

t.test("a device that took part in nothing, or in another task, waits for the next", async (t) => {
  for (const task of [undefined, "maize"]) {
    const { watched, startCoordinator } = await world(t, () => task);
    const coordinator = await startCoordinator({ task: "wheat" });
    await coordinator.presence.close({ task: "wheat", finished: true });
    await settle();
    t.match(watched, { log: [/has stopped: waiting for the next one/], finished: 0 });
  }
});

t.test("a coordinator that stops in the middle or is killed is waited for", async (t) => {
  const { watched, startCoordinator } = await world(t, () => "wheat");
  const first = await startCoordinator({ task: "wheat" });
  await first.transport.close({ will: "publish" });
  await settle();
  const second = await startCoordinator({ task: "wheat" });
  await settle();
  await second.presence.close();
  await settle();
  t.match(watched, { log: [/is lost/, /is there/, /has stopped/], finished: 0 });
});

async function world(t: Test, task: () => string | undefined) {
  const hub = createMemoryHub();
  t.teardown(() => hub.close());
  const transport = await hub.connect({ clientId: "pi-4" });
  const watched = { log: [] as string[], finished: 0 };
  const onFinished = () => {
    watched.finished += 1;
  };
  const log = (line: string) => watched.log.push(line);
  let starts = 0;
  const startCoordinator = async (details: StatusDetails) => {
    starts += 1;
    const topic = topicsOf(federation).coordinatorStatus;
    const identity = { topic, instance: `instance-${starts}`, counter: starts, version: "0.1.0" };
    const will = presenceWill(identity);
    const connected = await hub.connect({ clientId: "coordinator", will });
    const place = { transport: connected, identity, details };
    const presence = await announcePresence({ ...place, onReplaced: () => {}, log: () => {} });
    return { transport: connected, presence };
  };
  await watchCoordinator({ transport, federation, task, onFinished, log });
  return { watched, startCoordinator };
}
