// Disks that are full or read-only, clocks that jump, sleep and lost networks: a clear error or the same numbers.
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { startBroker } from "../../broker/index.ts";
import { startHop } from "../broker/network.ts";
import { watchedDisk } from "./disk-plan.ts";
import { coordinatorOf, deviceHere, deviceOf, journaled, recordsOf } from "./killed-run.ts";
import { adapterOf, federate, makeWorld, type SmallDevice, writeTask } from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
const runFolder = (name: string) => join(root, "runs", name);
await mkdir(runFolder(""), { recursive: true });
const task = await writeTask(world, "faults", {
  full: { encoding: "int8" },
  cohort: { minimumDevices: 2 },
});
const pair: readonly SmallDevice[] = [{ id: "a" }, { id: "b" }];
const undisturbed = await federate(world, { task, run: runFolder("whole"), devices: pair });

for (const [kind, code, hint] of [
  ["full", "ENOSPC", "Make room"],
  ["read-only", "EROFS", "may write to"],
] as const)
  t.test(
    `a coordinator whose disk is ${kind} in its round stops with a code and goes on later`,
    async (t) => {
      const broker = await startBroker({ log: () => {} });
      t.teardown(() => broker.close());
      const run = { world, task, folder: runFolder(kind) };
      const place = ["--broker", broker.url];
      const until = join(root, `${kind}.flag`);
      await writeFile(until, "");
      const ends = pair.map((one) => deviceHere(t, run, one, { address: broker.url }));
      for (const from of [45, 20]) {
        const watched = watchedDisk({ folder: run.folder, refuse: { from, until, code } });
        const { status, stdout, stderr } = await coordinatorOf(t, run, place, watched).finished;
        t.match({ status, stdout }, { status: 1, stdout: "" });
        t.match(stderr, new RegExp(`error RUN_FOLDER_UNUSABLE: .*${run.folder}: ${code}`));
        t.match(stderr, new RegExp(`hint: .*${hint}`));
      }
      await rm(until);
      const { status, stderr } = await coordinatorOf(t, run, place).finished;
      t.equal(status, 0, stderr);
      await Promise.all(ends);
      t.ok((await adapterOf(run.folder)).equals(undisturbed.adapter));
    },
  );

t.test("a file that may not grow is a full disk by the system's own word", async (t) => {
  const run = { world, task, folder: runFolder("limited") };
  // Blocks of 1024 bytes; task.json fits, and the profiles of the first round do not.
  const limited = coordinatorOf(
    t,
    run,
    ["--anonymous", "--listen", "mqtt://127.0.0.1:0"],
    {},
    { fileBlocks: 1 },
  );
  const { status, stderr } = await limited.finished;
  t.equal(status, 1);
  t.match(stderr, /error RUN_FOLDER_UNUSABLE: .*limited: EFBIG/);
  t.match(stderr, /hint: Make room/);
});

t.test(
  "a device whose disk is full fails its round with a code and goes on once there is room",
  async (t) => {
    const broker = await startBroker({ log: () => {} });
    t.teardown(() => broker.close());
    // The round waits for its minimum until the deadline, and is opened again.
    const cohort = { minimumDevices: 2, roundDeadlineMs: 10_000 };
    const settings = { full: { encoding: "int8" }, cohort };
    const short = await writeTask(world, "short", settings);
    const run = { world, task: short, folder: runFolder("full-device") };
    const until = join(root, "device.flag");
    await writeFile(until, "");
    const folder = join(`${run.folder}-devices`, "b-state", "tasks");
    const watched = watchedDisk({ folder, refuse: { from: 2, until } });
    const coordinator = coordinatorOf(t, run, ["--broker", broker.url]);
    const a = deviceHere(t, run, pair[0] as SmallDevice, { address: broker.url });
    const b = await deviceOf(t, run, pair[1] as SmallDevice, broker.url, watched);
    await b.said(/DEVICE_STATE_UNUSABLE/);
    await rm(until);
    const { status, stderr } = await coordinator.finished;
    t.equal(status, 0, stderr);
    await a;
    t.match(await b.finished, { status: 0 });
    // Selection has given it another framework since, so the numbers are not those of the undisturbed run.
    const records = await recordsOf(run.folder);
    const missed = records.find(({ kind }) => kind === "missed");
    t.match(missed, { round: 1, deviceId: "b", failure: /DEVICE_STATE_UNUSABLE/ });
    const closed = records.filter(({ kind }) => kind === "closed");
    t.match(closed, [{ accepted: { b: Number } }, { accepted: { b: Number } }]);
  },
);

for (const hours of [5, -5])
  t.test(`a clock that jumps ${hours} hours in a round changes nothing`, async (t) => {
    const broker = await startBroker({ log: () => {} });
    t.teardown(() => broker.close());
    const run = { world, task, folder: runFolder(`clock${hours}`) };
    const jumping = jumpingClock(hours);
    const coordinator = coordinatorOf(t, run, ["--broker", broker.url], jumping);
    const devices = await Promise.all(
      pair.map((one) => deviceOf(t, run, one, broker.url, jumping)),
    );
    for (const { finished } of [coordinator, ...devices]) t.match(await finished, { status: 0 });
    const lanes = (await recordsOf(run.folder)).filter(({ kind }) => kind === "lane");
    t.equal(lanes.length, 4, "no lane was given up");
    t.ok((await adapterOf(run.folder)).equals(undisturbed.adapter));
  });

t.test(
  "a device that slept past its keepalive, and one cut off for longer, come back by themselves",
  async (t) => {
    const broker = await startBroker({ log: () => {} });
    const hop = await startHop(Number(new URL(broker.url).port));
    t.teardown(() => hop.close().then(() => broker.close()));
    const run = { world, task, folder: runFolder("asleep") };
    const coordinator = coordinatorOf(t, run, ["--broker", broker.url]);
    const [first, second] = pair as [SmallDevice, SmallDevice];
    const a = deviceHere(t, run, first, { address: broker.url });
    const b = await deviceOf(t, run, second, `mqtt://127.0.0.1:${hop.port}`);
    await journaled(run.folder, (one) => one.kind === "lane" && one.deviceId === "b");
    b.process.kill("SIGSTOP");
    // What a broker does with a client that says nothing for its keepalive: it ends the connection and tells its last will.
    hop.cut();
    await coordinator.said(/b .*(lost|gone|connection)/);
    hop.restore();
    b.process.kill("SIGCONT");
    const { status, stderr } = await coordinator.finished;
    t.equal(status, 0, stderr);
    await a;
    t.match(await b.finished, { status: 0 });
    t.ok((await adapterOf(run.folder)).equals(undisturbed.adapter));
  },
);

/** A program's environment in which Date jumps once it has run for half a second. */
function jumpingClock(hours: number): Record<string, string> {
  const code = `const now=Date.now;let by=0;setTimeout(()=>{by=${hours}*3600e3},500).unref();
Date.now=()=>now()+by;`;
  return { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(code)}` };
}
