// The power cut after every single change of a run folder and of a device's state: what was acknowledged is there, and what
// was not is as if it had never begun.
import { mkdir, readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import t, { type Test } from "tap";
import { type JournalRecord, openJournal, readJournal } from "../../apps/coordinator/journal.ts";
import { prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { rowsIn } from "../../apps/coordinator/row-folders.ts";
import { openRunFolder, type RunFolder } from "../../apps/coordinator/run-folder.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { openDeviceState } from "../../apps/device/client-state.ts";
import { decodeStored } from "../../apps/stored-message.ts";
import { startBroker } from "../../broker/index.ts";
import { watchedDisk } from "./disk-plan.ts";
import { coordinatorOf, deviceHere, deviceOf } from "./killed-run.ts";
import { cuts, isTelling, readChanges, VolatileDisk } from "./power-cut.ts";
import {
  adapterOf,
  makeWorld,
  remembering,
  type SmallDevice,
  writeTask,
} from "./small-federation.ts";
import { SureFiles } from "./sure-files.ts";

const root = t.testdir();
const world = await makeWorld(root);
// Every kind of file is written: residuals by int8, uploads by full, results of lanes in memory and rows by split.
const task = await writeTask(world, "power", {
  full: { encoding: "int8" },
  split: remembering,
  cohort: { minimumDevices: 2 },
});
const devices: readonly SmallDevice[] = [{ id: "a", framework: "split" }, { id: "b" }];
const site = join(root, "site");
const log = join(root, "changes.log");
const places = { run: join(site, "run"), state: join(site, "run-devices") };
await mkdir(site);
await recordRun(t);
const undisturbed = await readJournal(join(places.run, "journal", "records.jsonl"));
const prepared = await prepareTask(await readTaskFile(task), world.cacheFolder);
const changes = await readChanges(log);

for (const cut of cuts)
  t.test(
    `a run folder after a power cut, ${cut}, is that before or after each change`,
    async (t) => {
      const disk = new VolatileDisk(site);
      const wrong: string[] = [];
      const left = t.testdir();
      for (const [i, change] of changes.entries()) {
        disk.apply(change);
        if (change.path.startsWith(places.state) || !isTelling(cut, change)) continue;
        const place = join(left, String(i));
        await disk.leave(place, cut);
        const journal = disk.synced(join(places.run, "journal", "records.jsonl"));
        const acknowledged = String(journal ?? "").split("\n").length - 1;
        const fault = await faultOf(join(place, "run"), acknowledged).catch(
          (error: unknown) => `${error}`,
        );
        if (fault !== undefined) wrong.push(`${i} ${change.op} ${change.path}: ${fault}`);
      }
      t.same(wrong, []);
    },
  );

for (const cut of cuts)
  t.test(`a device's state after a power cut, ${cut}, holds what it staged`, async (t) => {
    const disk = new VolatileDisk(site);
    const sure = new SureFiles();
    const wrong: string[] = [];
    const left = t.testdir();
    for (const [i, change] of changes.entries()) {
      disk.apply(change);
      sure.apply(change, (path) => disk.synced(path));
      if (!change.path.startsWith(places.state) || !isTelling(cut, change)) continue;
      const place = join(left, String(i));
      await disk.leave(place, cut);
      for (const [path, bytes] of sure.files()) {
        const moved = join(place, path.slice(site.length));
        const found = await readFile(moved).catch(() => undefined);
        if (!found?.equals(bytes)) wrong.push(`${i} ${change.op} ${change.path}: ${path}`);
        if (!path.endsWith("committed.safetensors")) continue;
        const state = await openDeviceState(dirname(moved), () => {});
        if ((await state.forLane(9).read()) === undefined) wrong.push(`${i}: ${path} unread`);
      }
    }
    t.same(wrong, []);
    t.ok(sure.files().length > 0, "the device kept something");
  });

t.test("lines of zeros at a journal's end were never acknowledged", async (t) => {
  const folder = t.testdir({ "records.jsonl": '{"kind":"finished"}\n\0\0\0\0\n' });
  const journal = await openJournal(join(folder, "records.jsonl"));
  t.same(journal.records, [{ kind: "finished" }]);
  await journal.append({ kind: "finished" });
  await journal.close();
  t.equal((await readFile(join(folder, "records.jsonl"), "utf8")).split("\n").length, 3);
});

for (const fraction of [0.3, 0.7] as const)
  t.test(
    `a run goes on to the same adapter after the power went at ${fraction} of it`,
    async (t) => {
      const disk = new VolatileDisk(site);
      for (const change of changes.slice(0, Math.floor(fraction * changes.length)))
        disk.apply(change);
      const place = join(t.testdir(), "left");
      await disk.leave(place, "synced");
      const broker = await startBroker({ log: () => {} });
      t.teardown(() => broker.close());
      const run = { world, task, folder: join(place, "run") };
      const coordinator = coordinatorOf(t, run, ["--broker", broker.url]);
      const joined = devices.map((one) => deviceHere(t, run, one, { address: broker.url }));
      const { status, stderr } = await coordinator.finished;
      t.equal(status, 0, stderr);
      await Promise.all(joined);
      t.ok((await adapterOf(run.folder)).equals(await adapterOf(places.run)));
    },
  );

/** One run, coordinator and devices as programs, what they change on the disk logged in one order. */
async function recordRun(t: Test): Promise<void> {
  const broker = await startBroker({ log: () => {} });
  const run = { world, task, folder: places.run };
  const watched = watchedDisk({ folder: site, log });
  const running = [
    coordinatorOf(t, run, ["--broker", broker.url], watched),
    ...(await Promise.all(devices.map((one) => deviceOf(t, run, one, broker.url, watched)))),
  ];
  for (const { status, stderr } of await Promise.all(running.map(({ finished }) => finished)))
    if (status !== 0) throw new Error(stderr);
  await broker.close();
}

/** What is wrong with a run folder that held so many acknowledged lines, if anything. */
async function faultOf(folder: string, acknowledged: number): Promise<string | undefined> {
  const run = await openRunFolder(folder, prepared.task);
  try {
    const { records } = run.journal;
    if (records.length < acknowledged) return `${records.length} lines of ${acknowledged}`;
    if (JSON.stringify(records) !== JSON.stringify(undisturbed.slice(0, records.length)))
      return "other lines";
    for (const record of needed(records)) {
      if (record.kind === "upload") await decodeStored(await run.readUpload(record.file));
      if (record.kind === "result") await run.readUpdate(record.file);
    }
    return (await rowsFault(run, records)) ?? (await metricsFault(folder, records));
  } finally {
    await run.close();
  }
}

/** Files of the round that goes on. */
function needed(records: readonly JournalRecord[]): readonly JournalRecord[] {
  return records.slice(records.findLastIndex(({ kind }) => kind === "closed") + 1);
}

/** What the last round left of the split device, until no round is to come. */
async function rowsFault(run: RunFolder, records: readonly JournalRecord[]) {
  const closed = records.findLast((record) => record.kind === "closed");
  const lane = closed?.accepted["a"];
  if (!closed || lane === undefined || closed.round === prepared.task.training.rounds) return;
  const rows = await rowsIn(run.path, run, () => {})("a").read(lane);
  return rows ? undefined : `no rows of lane ${lane}`;
}

async function metricsFault(folder: string, records: readonly JournalRecord[]) {
  const lines = async (path: string) =>
    (await readFile(path, "utf8").catch(() => "")).split("\n").filter((line) => line !== "");
  const last = (kind: "closed" | "scored") =>
    records.reduce((round, one) => (one.kind === kind ? Math.max(round, one.round) : round), 0);
  const limits = { device: last("closed"), refinement: last("closed"), round: last("scored") };
  const expected = (await lines(join(places.run, "metrics.jsonl"))).filter((line) => {
    const { kind, round } = JSON.parse(line) as { kind: keyof typeof limits; round: number };
    return round <= limits[kind];
  });
  const found = await lines(join(folder, "metrics.jsonl"));
  const leftovers = (await readdir(folder)).filter((name) => name.endsWith(".new"));
  if (leftovers.length > 0) return `left ${leftovers}`;
  return JSON.stringify(found) === JSON.stringify(expected)
    ? undefined
    : `${found.length} metrics of ${expected.length}`;
}
