// A broker killed (SIGKILL) and started again in every round, with all three frameworks: the rounds complete, the numbers stay.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { mosquittoMissing } from "../broker/network.ts";
import { type BrokerProcess, startBrokerProcess, startMosquittoAt } from "./broker-process.ts";
import { coordinatorOf, deviceHere, freePort, journaled, recordsOf } from "./killed-run.ts";
import {
  adapterOf,
  type Framework,
  federate,
  makeWorld,
  type SmallDevice,
  writeTask,
} from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
const runFolder = (name: string) => join(root, "runs", name);
await mkdir(runFolder(""), { recursive: true });
const task = await writeTask(world, "broker", { cohort: { minimumDevices: 2 } });

for (const framework of ["full", "kd", "split"] as const) {
  t.test(`the embedded broker killed and started again in a round of ${framework}`, (t) =>
    brokerKilled(t, framework, (port) => startBrokerProcess(t, port)),
  );
  const skip = mosquittoMissing() ?? false;
  t.test(`Mosquitto killed and started again in a round of ${framework}`, { skip }, (t) =>
    brokerKilled(t, framework, (port) => startMosquittoAt(t, port)),
  );
}

/** Kills the broker with the first upload of each round under way, and starts it again. */
async function brokerKilled(
  t: Test,
  framework: Framework,
  start: (port: number) => Promise<BrokerProcess>,
): Promise<void> {
  const devices: readonly SmallDevice[] = [{ id: "a", framework }, { id: "b" }];
  const expected = await federate(world, {
    task,
    run: runFolder(`calm-${t.name.replaceAll(/\W/g, "-")}`),
    devices,
  });
  const port = await freePort();
  const address = `mqtt://127.0.0.1:${port}`;
  let broker = await start(port);
  const run = { world, task, folder: runFolder(t.name.replaceAll(/\W/g, "-")) };
  const coordinator = coordinatorOf(t, run, ["--broker", address]);
  const ends = devices.map((one) => deviceHere(t, run, one, { address }));
  for (const round of [1, 2]) {
    await journaled(run.folder, (one) => one.kind === "lane" && one.round === round);
    await broker.kill();
    broker = await start(port);
  }
  const { status, stderr } = await coordinator.finished;
  t.equal(status, 0, stderr);
  await Promise.all(ends);
  t.ok((await adapterOf(run.folder)).equals(expected.adapter));
  const closed = (await recordsOf(run.folder)).filter(({ kind }) => kind === "closed");
  t.match(closed, [{ round: 1 }, { round: 2 }]);
}
