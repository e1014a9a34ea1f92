// Coordinator and device killed (SIGKILL) after every single change that they make on the disk, one run for each.
// The suite takes a seeded sample of them; TRIFOLD_KILL_WALK=all takes all, TRIFOLD_KILL_WALK=split those of one framework.
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { startBroker } from "../../broker/index.ts";
import { randomStream } from "../../runtime/index.ts";
import { watchedDisk } from "./disk-plan.ts";
import { journalFault, type KillWalk, killAt } from "./kill-walk.ts";
import { coordinatorOf, deviceOf } from "./killed-run.ts";
import { readChanges } from "./power-cut.ts";
import {
  adapterOf,
  makeWorld,
  remembering,
  type SmallDevice,
  writeTask,
} from "./small-federation.ts";

const wholeWalk = process.env["TRIFOLD_KILL_WALK"];
/** The coordinator makes four times the changes of a device. */
const sampleSizes = { coordinator: 2, device: 1 } as const;
const root = t.testdir();
const world = await makeWorld(root);
await mkdir(join(root, "runs"));
const task = await writeTask(world, "walk", {
  cohort: { minimumDevices: 2 },
  training: { rounds: 2, localSteps: 2 },
  // What a round of split leaves to the next.
  split: remembering,
});

for (const framework of ["full", "kd", "split"] as const) {
  const a: SmallDevice = { id: "a", framework };
  const isWhole = wholeWalk === "all" || wholeWalk === framework;
  const devices = [a, { id: "b" }];
  for (const victim of ["coordinator", a] as const) {
    const who = victim === "coordinator" ? victim : "device";
    t.test(
      `a ${who} of ${framework} killed after any change ends with the same adapter`,
      async (t) => {
        const name = `${framework}-${who}`;
        const walk = { world, task, devices, victim };
        const { adapter, changes } = await undisturbed(walk, name);
        const wrong: string[] = [];
        for (const at of isWhole
          ? range(changes)
          : sample(changes, { name, size: sampleSizes[who] })) {
          const folder = join(root, "runs", `${name}-${at}`);
          const killed = await killAt(t, walk, { folder, changes: at });
          // Whether a change comes at all may depend on the order in which devices came.
          if (!killed.isKilled && at < changes - 3) wrong.push(`${at}: was not killed`);
          const fault = journalFault(killed);
          if (fault !== undefined) wrong.push(`${at}: ${fault}`);
          if (!killed.adapter.equals(adapter)) wrong.push(`${at}: another adapter`);
          for (const used of [folder, `${folder}-devices`]) await rm(used, { recursive: true });
        }
        t.same(wrong, []);
        t.comment(`${changes} changes`);
      },
    );
  }
}

/** The adapter of a run that nothing disturbs, and how many changes its victim makes. */
async function undisturbed({ devices, victim }: KillWalk, name: string) {
  const broker = await startBroker({ log: () => {} });
  const run = { world, task, folder: join(root, "runs", name) };
  const log = join(root, `${name}.log`);
  const state = (id: string) => join(`${run.folder}-devices`, `${id}-state`);
  const folder = victim === "coordinator" ? run.folder : state(victim.id);
  const watched = watchedDisk({ folder, log });
  const isVictim = (one: unknown) => (one === victim ? watched : {});
  const running = [
    coordinatorOf(t, run, ["--broker", broker.url], isVictim("coordinator")),
    ...(await Promise.all(devices.map((one) => deviceOf(t, run, one, broker.url, isVictim(one))))),
  ];
  for (const { status, stderr } of await Promise.all(running.map(({ finished }) => finished)))
    if (status !== 0) throw new Error(stderr);
  await broker.close();
  const adapter = await adapterOf(run.folder);
  return { adapter, changes: (await readChanges(log)).length };
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i + 1);
}

/** One of each stretch of equal length. */
function sample(
  count: number,
  { name, size }: { readonly name: string; readonly size: number },
): number[] {
  const random = randomStream("kill-walk", name);
  const stretch = Math.floor(count / size);
  return range(size).map((i) => (i - 1) * stretch + 1 + random.below(stretch));
}
