// The programs killed at bad moments: what was finished stays, what was under way goes on, and the numbers are
// those of a run that nothing disturbed.
import { existsSync } from "node:fs";
import { appendFile, cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { type JournalRecord, journalFile } from "../../apps/coordinator/journal.ts";
import { lockRunFolder } from "../../apps/coordinator/run-lock.ts";
import { startBroker } from "../../broker/index.ts";
import { startHop } from "../broker/network.ts";
import {
  coordinatorOf,
  deviceHere,
  deviceOf,
  freePort,
  journaled,
  kill,
  recordsOf,
} from "./killed-run.ts";
import type { Running } from "./program.ts";
import {
  adapterOf,
  federate,
  makeWorld,
  remembering,
  type SmallDevice,
  writeTask,
} from "./small-federation.ts";
import { startWiretap } from "./wiretap.ts";

const root = t.testdir();
const world = await makeWorld(root);
const run = (name: string) => join(root, "runs", name);
await mkdir(run(""), { recursive: true });
const task = await writeTask(world, "crash", { cohort: { minimumDevices: 2 } });
const whole: readonly SmallDevice[] = [{ id: "a" }, { id: "b" }];
const cut: readonly SmallDevice[] = [{ id: "a", framework: "split" }, { id: "b" }];

/** Float32 on no wire here, so split and full give different bytes: each needs a run to compare with. */
const undisturbed = {
  whole: await federate(world, { task, run: run("whole"), devices: whole }),
  cut: await federate(world, { task, run: run("cut"), devices: cut }),
};

t.test("a coordinator killed after an upload goes on without asking for it again", async (t) => {
  const folder = run("killed");
  const port = await freePort();
  const hop = await startHop(port);
  t.teardown(() => hop.close());
  const listener = ["--anonymous", "--listen", `mqtt://127.0.0.1:${port}`];
  const first = coordinator(t, folder, listener);
  // One device is cut off while it trains, the other one delivers.
  const a = joined(t, { id: "a" }, folder, `mqtt://127.0.0.1:${port}`);
  const b = joined(t, { id: "b" }, folder, `mqtt://127.0.0.1:${hop.port}`, (line) => {
    if (line.startsWith("round 1: full")) hop.cut();
  });
  await journaled(folder, ({ kind }) => kind === "upload");
  await kill(first);
  t.same((await recordsOf(folder)).filter(({ kind }) => kind === "upload").map(placeOf), ["a 1"]);
  await appendFile(journalFile(folder), '{"kind":"upload","devi');
  const second = coordinator(t, folder, listener);
  await second.said(/going on with round 1, attempt 1/);
  hop.restore();
  const { status, stdout, stderr } = await second.finished;
  t.equal(status, 0, stderr);
  t.match(JSON.parse(stdout), { rounds: 2, accuracy: undisturbed.whole.result.accuracy });
  for (const { log } of await Promise.all([a, b])) {
    t.equal(log.filter((line) => /^round 1: full/.test(line)).length, 1, "trained once");
    t.notMatch(log.join("\n"), /failed/);
  }
  const records = await recordsOf(folder);
  for (const wanted of ["lane", "upload", "report"]) {
    const places = records.filter(({ kind }) => kind === wanted).map(placeOf);
    t.same(places.sort(), ["a 1", "a 2", "b 1", "b 2"], wanted);
  }
  t.ok((await adapterOf(folder)).equals(undisturbed.whole.adapter));
});

t.test(
  "a coordinator killed between two steps of a split lane begins that lane again",
  async (t) => {
    // A broker of its own: devices stay connected and their status stands when the coordinator comes back.
    const broker = await startBroker({ log: () => {} });
    const tap = await startWiretap(broker.port);
    t.teardown(() => Promise.all([tap.close(), broker.close()]));
    const folder = run("killed-split");
    const first = coordinator(t, folder, ["--broker", broker.url]);
    const [split, full] = cut as [SmallDevice, SmallDevice];
    const devices = [joined(t, split, folder, tap.url), joined(t, full, folder, broker.url)];
    await tap.next(({ fields }) => fields["laneSequence"] === 2);
    await kill(first);
    const second = coordinator(t, folder, ["--broker", broker.url]);
    const { status, stderr } = await second.finished;
    t.equal(status, 0, stderr);
    await Promise.all(devices);
    const records = await recordsOf(folder);
    // Round 1 had two lanes of the split device, round 2 one.
    t.same(lanesOf(records), ["a 1", "a 2", "a 3", "b 1", "b 2"]);
    const closed = records.filter(({ kind }) => kind === "closed");
    t.match(closed, [{ accepted: { a: 2, b: 1 } }, { accepted: { a: 3, b: 2 } }]);
    t.ok((await adapterOf(folder)).equals(undisturbed.cut.adapter));
  },
);

t.test("a coordinator killed in a later round remembers its cut device still", async (t) => {
  const broker = await startBroker({ log: () => {} });
  const tap = await startWiretap(broker.port);
  t.teardown(() => Promise.all([tap.close(), broker.close()]));
  const narrow = await writeTask(world, "narrow", {
    split: remembering,
    cohort: { minimumDevices: 2 },
  });
  const expected = await federate(world, { task: narrow, run: run("narrow"), devices: cut });
  const folder = run("killed-narrow");
  const first = coordinator(t, folder, ["--broker", broker.url], narrow);
  const devices = cut.map((one) => joined(t, one, folder, tap.url, () => {}, narrow));
  await tap.next(({ round, fields }) => round === 2 && fields["laneSequence"] === 2);
  await kill(first);
  const { status, stderr } = await coordinator(t, folder, ["--broker", broker.url], narrow)
    .finished;
  t.equal(status, 0, stderr);
  await Promise.all(devices);
  t.ok((await adapterOf(folder)).equals(expected.adapter), "and so does the device of its lane");
  t.notOk(existsSync(join(folder, "rows")), "nothing of it is left");
});

t.test("a coordinator killed in a later round has its change and its residual still", async (t) => {
  const broker = await startBroker({ log: () => {} });
  t.teardown(() => broker.close());
  const lossy = await writeTask(world, "lossy", {
    full: { encoding: "int8" },
    cohort: { minimumDevices: 2 },
    training: { rounds: 3 },
  });
  const expected = await federate(world, { task: lossy, run: run("lossy"), devices: whole });
  const folder = run("killed-later");
  const place = ["--broker", broker.url];
  const first = coordinator(t, folder, place, lossy);
  const devices = whole.map((one) => joined(t, one, folder, broker.url, () => {}, lossy));
  await journaled(folder, (record) => record.kind === "round" && record.round === 3);
  await kill(first);
  const { status, stderr } = await coordinator(t, folder, place, lossy).finished;
  t.equal(status, 0, stderr);
  await Promise.all(devices);
  const uploads = (await recordsOf(folder)).filter(({ kind }) => kind === "upload").map(placeOf);
  // A device that asked for the whole parameters would have two in its lane.
  t.equal(new Set(uploads).size, uploads.length, uploads.join(", "));
  t.equal(new Set(uploads.filter((place) => place.startsWith("a"))).size, 3);
  t.ok((await adapterOf(folder)).equals(expected.adapter));
});

t.test("a device killed in its round comes back with the same command and delivers", async (t) => {
  const folder = run("killed-device");
  let lost: Running | undefined;
  let back: Running | undefined;
  let address = "";
  const start = () => deviceOf(t, { world, task, folder }, { id: "b" }, address);
  const { adapter, records, events } = await federate(world, {
    task,
    run: folder,
    devices: [{ id: "a" }],
    addressFor: async (url) => {
      address = url;
      lost = await start();
      return url;
    },
    onEvent: (event) => {
      if (!("deviceId" in event) || event.deviceId !== "b") return;
      if (event.kind === "started" && event.lane === 1) lost?.process.kill("SIGKILL");
      if (event.kind === "lost") {
        void start().then((running) => {
          back = running;
        });
      }
    },
  });
  const lostReasons = events.flatMap((event) => (event.kind === "lost" ? [event.reason] : []));
  t.same(lostReasons, ["the connection was lost"]);
  const ended = await back?.finished;
  t.match(ended, { status: 0 });
  t.same(lanesOf(records), ["a 1", "a 2", "b 1", "b 2", "b 3"]);
  t.ok(adapter.equals(undisturbed.whole.adapter));
});

t.test("a lost connection does not cost a device what it has trained", async (t) => {
  let hop: Awaited<ReturnType<typeof startHop>> | undefined;
  const folder = run("cut-wire");
  const { adapter, events, records } = await federate(world, {
    task,
    run: folder,
    devices: cut,
    addressFor: async (url) => {
      hop = await startHop(Number(new URL(url).port));
      return `mqtt://127.0.0.1:${hop.port}`;
    },
    onEvent: (event) => {
      if (event.kind === "progress" && event.deviceId === "a" && event.messages === 1) hop?.cut();
      if (event.kind === "gone") hop?.restore();
    },
  });
  await hop?.close();
  const gone = events.flatMap((event) => (event.kind === "gone" ? [event.deviceId] : []));
  t.ok(gone.includes("a") && gone.includes("b"), "the wire was cut");
  t.same(lanesOf(records), ["a 1", "a 2", "b 1", "b 2"]);
  t.ok(adapter.equals(undisturbed.cut.adapter));
});

t.test("a finished run says its result again", async (t) => {
  const folder = await copyOf("whole", "finished");
  const { result, adapter } = await federate(world, { task, run: folder, devices: [] });
  t.match(result, { rounds: 2, accuracy: undisturbed.whole.result.accuracy });
  t.ok(adapter.equals(undisturbed.whole.adapter));
});

t.test("devices that have not heard of the end are waited for and told", async (t) => {
  const folder = await copyOf("whole", "untold");
  const untold = (await recordsOf(folder)).filter(({ kind }) => kind !== "finished");
  await writeFile(journalFile(folder), untold.map((line) => `${JSON.stringify(line)}\n`).join(""));
  // Resolves once every device has ended by itself.
  const { log, records } = await federate(world, { task, run: folder, devices: whole });
  t.equal(log.filter((line) => line.endsWith("the task is finished")).length, 2);
  t.notMatch(log.join("\n"), /round \d/);
  t.same(records, [...untold, { kind: "finished" }]);
});

t.test("a journal damaged before its end is refused with file and line", async (t) => {
  const folder = await copyOf("whole", "damaged");
  const file = journalFile(folder);
  const lines = (await readFile(file, "utf8")).split("\n");
  lines[1] = (lines[1] as string).slice(0, -5);
  await writeFile(file, lines.join("\n"));
  const { status, stdout, stderr } = await coordinator(t, folder, anyPort).finished;
  t.match({ status, stdout }, { status: 1, stdout: "" });
  t.match(stderr, /^error RUN_JOURNAL_DAMAGED: .*records\.jsonl:2 /);
  t.match(stderr, /hint: Restore the run folder/);
  t.equal(await readFile(file, "utf8"), lines.join("\n"), "nothing was cut off");
});

t.test("a changed task is refused, the run folder stays as it was", async (t) => {
  const folder = await copyOf("whole", "changed");
  const before = await readFile(journalFile(folder));
  const changed = await writeTask(world, "changed", { seed: 8, cohort: { minimumDevices: 2 } });
  const { status, stdout, stderr } = await coordinator(t, folder, anyPort, changed).finished;
  t.match({ status, stdout }, { status: 2, stdout: "" });
  t.match(stderr, /^error TASK_CHANGED: .*task\.json .*\nhint: .*--run/);
  t.ok((await readFile(journalFile(folder))).equals(before));
});

t.test("a run folder has one owner, until that one has died", async (t) => {
  const folder = await copyOf("whole", "owned");
  const release = await lockRunFolder(folder);
  const refused = await coordinator(t, folder, anyPort).finished;
  t.match(refused, { status: 1, stdout: "" });
  t.match(refused.stderr, new RegExp(`^error RUN_FOLDER_IN_USE: process ${process.pid} .*owned\n`));
  t.match(refused.stderr, /hint: Stop that process/);
  await release();
  // A process of this number lives, but it began at another time: the number was given out again.
  await writeFile(join(folder, "lock"), JSON.stringify({ pid: process.pid, started: "1" }));
  await (await lockRunFolder(folder))();
  // Torn by a crash.
  await writeFile(join(folder, "lock"), '{"pid":');
  await (await lockRunFolder(folder))();
});

const anyPort = ["--anonymous", "--listen", "mqtt://127.0.0.1:0"];

/** The coordinator as a person starts it. */
function coordinator(
  t: Test,
  folder: string,
  place: readonly string[],
  taskFile: string = task,
): Running {
  return coordinatorOf(t, { world, task: taskFile, folder }, place);
}

/** A device in this process; gives its log once the task is finished. */
function joined(
  t: Test,
  smallDevice: SmallDevice,
  folder: string,
  address: string,
  onLine: (line: string) => void = () => {},
  taskFile: string = task,
): Promise<{ readonly log: readonly string[] }> {
  return deviceHere(t, { world, task: taskFile, folder }, smallDevice, { address, onLine });
}

/** Device and lane of every lane that was opened. */
function lanesOf(records: readonly JournalRecord[]): string[] {
  return records
    .filter(({ kind }) => kind === "lane")
    .map(placeOf)
    .sort();
}

function placeOf(record: JournalRecord): string {
  return "lane" in record ? `${record.deviceId} ${record.lane}` : record.kind;
}

async function copyOf(source: string, name: string): Promise<string> {
  await cp(run(source), run(name), { recursive: true });
  return run(name);
}
