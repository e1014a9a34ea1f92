// The lanes of `split` in worker processes: the same numbers, and what becomes of lanes and workers when either end dies.
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import t from "tap";
import { isAlive } from "../../apps/processes.ts";
import { startTrifold } from "./program.ts";
import {
  type Federated,
  type FederateOptions,
  federate,
  joinDevice,
  makeWorld,
  remembering,
  type SmallDevice,
  writeTask,
} from "./small-federation.ts";

const world = await makeWorld(t.testdir());
const devices: readonly SmallDevice[] = [
  { id: "a", framework: "split" },
  { id: "b", framework: "split" },
  { id: "c", framework: "split" },
  { id: "d", framework: "full" },
];
const cohort = { minimumDevices: 4 };
/** What a worker remembers of a device outlives it. */
const task = await writeTask(world, "workers", { cohort, split: remembering });
const run = (name: string, options: Partial<FederateOptions> = {}): Promise<Federated> =>
  federate(world, { task, run: join(world.folder, name), devices, ...options });
const inProcess = await run("in-process");

/** Process of each worker that the log names, in order. */
function pidsIn(log: readonly string[]): number[] {
  return log
    .flatMap((line) => /split worker \d+ is process (\d+)/.exec(line)?.[1] ?? [])
    .map(Number);
}

async function untilGone(pid: number): Promise<void> {
  while (isAlive(pid)) await delay(20);
}

t.test("two workers give the bytes of one process, and end with it", async (t) => {
  const spread = await run("spread", { splitWorkers: 2 });
  t.ok(spread.adapter.equals(inProcess.adapter), "the same adapter");
  t.same(lossesOf(spread), lossesOf(inProcess), "the same losses");
  const pids = pidsIn(spread.log);
  t.equal(new Set(pids).size, 2, "both were used");
  for (const pid of pids) await untilGone(pid);
});

t.test("a worker that is killed takes its lanes along, which begin anew", async (t) => {
  const log: string[] = [];
  let isKilled = false;
  const killed = await run("killed", {
    // One, so that a's lane is surely its.
    splitWorkers: 1,
    onLog: (line) => log.push(line),
    onEvent: (event) => {
      // In the middle of a's round, of five messages.
      if (isKilled || event.kind !== "progress" || event.deviceId !== "a" || event.messages < 2)
        return;
      isKilled = true;
      process.kill(pidsIn(log)[0] as number, "SIGKILL");
    },
  });
  t.ok(isKilled);
  t.match(killed.log.join("\n"), /split worker 1 ended by SIGKILL: its lanes begin anew/);
  t.equal(new Set(pidsIn(killed.log)).size, 2, "it was started again");
  const begun = killed.events.flatMap((event) =>
    event.kind === "started" && event.deviceId === "a" ? [event.protocol] : [],
  );
  t.same(begun, ["split", "split", "split"], "a lane that ended early, another, the next round's");
  const attempts = killed.records.filter(({ kind }) => kind === "round").length;
  t.equal(attempts, 2, "no round was opened again");
  t.ok(killed.adapter.equals(inProcess.adapter), "the numbers of a run without a kill");
});

t.test("a worker that is killed while it opens lanes loses no device", async (t) => {
  const log: string[] = [];
  const killed = await run("killed-early", {
    splitWorkers: 1,
    onLog: (line) => {
      log.push(line);
      const pids = pidsIn([line]);
      if (pids.length > 0 && pidsIn(log).length === 1) process.kill(pids[0] as number, "SIGKILL");
    },
  });
  t.equal(new Set(pidsIn(killed.log)).size, 2, "it was started again");
  t.same(
    killed.events.filter(({ kind }) => kind === "lost"),
    [],
  );
  t.ok(killed.adapter.equals(inProcess.adapter), "the numbers of a run without a kill");
});

t.test("a worker ends with a coordinator that is killed", async (t) => {
  const folder = join(world.folder, "orphans");
  const args = ["coordinator", "--task", task, "--run", folder, "--split-workers", "1"];
  const listen = ["--anonymous", "--listen", "mqtt://127.0.0.1:0", "--threads", "1"];
  const coordinator = startTrifold([...args, ...listen], { TRIFOLD_CACHE: world.cacheFolder });
  const address = /at (mqtt:\S+),/.exec(await coordinator.said(/at mqtt:/))?.[1] as string;
  const stop = new AbortController();
  const place = { task, run: folder, address, signal: stop.signal, log: () => {} };
  const joined = devices.map((device) => joinDevice(world, device, place).catch(() => {}));
  const pids = pidsIn((await coordinator.said(/split worker 1 is process \d+/)).split("\n"));
  t.equal(pids.length, 1);
  coordinator.process.kill("SIGKILL");
  await coordinator.finished;
  await untilGone(pids[0] as number);
  stop.abort(new Error("enough"));
  await Promise.all(joined);
});

t.test("shared tails stay in the coordinator's process, which says so", async (t) => {
  const shared = await writeTask(world, "shared", { cohort, split: { tails: "shared" } });
  const { log } = await run("shared", { task: shared, splitWorkers: 2 });
  t.same(pidsIn(log), []);
  t.match(log.join("\n"), /split.tails is shared: .* in this process/);
});

function lossesOf({ records }: Federated): string[] {
  return records
    .flatMap((record) =>
      record.kind === "report" ? [`${record.deviceId} ${record.lane} ${record.report.loss}`] : [],
    )
    .sort();
}
