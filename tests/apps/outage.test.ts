// A network that swallows everything, and a board that sleeps, for a while: the round goes on where it was, with the same numbers.
// The suite waits for seconds; TRIFOLD_OUTAGE_SECONDS=180 outlasts the keepalive (30 s) and the broker's patience (45 s).
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import t from "tap";
import { startBroker } from "../../broker/index.ts";
import { startGate } from "../broker/network.ts";
import { coordinatorOf, deviceHere, deviceOf, journaled, recordsOf } from "./killed-run.ts";
import {
  adapterOf,
  federate,
  makeWorld,
  remembering,
  type SmallDevice,
  writeTask,
} from "./small-federation.ts";

const seconds = Number(process.env["TRIFOLD_OUTAGE_SECONDS"] ?? 3);
const root = t.testdir();
const world = await makeWorld(root);
const runFolder = (name: string) => join(root, "runs", name);
await mkdir(runFolder(""), { recursive: true });
const task = await writeTask(world, "outage", {
  cohort: { minimumDevices: 2 },
  split: remembering,
});

for (const framework of ["full", "kd", "split"] as const)
  t.test(`a device of ${framework} out of reach, then asleep, for ${seconds} s each`, async (t) => {
    const [a, b]: readonly [SmallDevice, SmallDevice] = [{ id: "a", framework }, { id: "b" }];
    const devices = [a, b];
    const calm = await federate(world, { task, run: runFolder(`calm-${framework}`), devices });
    const broker = await startBroker({ log: () => {} });
    const gate = await startGate(Number(new URL(broker.url).port));
    t.teardown(() => gate.close().then(() => broker.close()));
    const run = { world, task, folder: runFolder(framework) };
    const coordinator = coordinatorOf(t, run, ["--broker", broker.url]);
    const other = deviceHere(t, run, b, { address: broker.url });
    const device = await deviceOf(t, run, a, `mqtt://127.0.0.1:${gate.port}`);
    const ways = [
      [gate.shut, gate.open],
      [() => device.process.kill("SIGSTOP"), () => device.process.kill("SIGCONT")],
    ] as const;
    for (const [i, [leave, comeBack]] of ways.entries()) {
      const round = i + 1;
      await journaled(
        run.folder,
        (one) => one.kind === "lane" && one.round === round && one.deviceId === "a",
      );
      leave();
      await delay(1000 * seconds);
      comeBack();
    }
    const { status, stderr } = await coordinator.finished;
    t.equal(status, 0, stderr);
    await other;
    t.match(await device.finished, { status: 0 });
    t.ok((await adapterOf(run.folder)).equals(calm.adapter), "the numbers of a calm run");
    const closed = (await recordsOf(run.folder)).filter(({ kind }) => kind === "closed");
    t.match(closed, [{ round: 1 }, { round: 2 }]);
  });
