// Split devices at every cut against full ones, and devices that share a part, over the real broker.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { startHop } from "../broker/network.ts";
import { coordinatorOf, deviceHere, freePort, journaled, kill, recordsOf } from "./killed-run.ts";
import {
  federate,
  frameworksOf,
  makeWorld,
  type SmallDevice,
  writeTask,
} from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
const ids = ["a", "b", "c"];
const devices = ids.map((id): SmallDevice => ({ id }));
const exact = {
  cohort: { minimumDevices: 3 },
  full: { encoding: "float32" },
  adapter: { rank: 4, alpha: 8, targets: ["c_attn"], dropout: 0.1 },
  // Gradients have norms above it: clipping is across the cut in every step.
  training: { maxGradientNorm: 0.05 },
};
const wire = { activations: "float32", gradients: "float32" };

/** A federation whose devices are cut behind these blocks, 0 for a whole model. */
async function adapterAt(name: string, cuts: readonly number[], split: object = {}) {
  const assignments = ids.flatMap((id, i) => {
    const cutLayer = cuts[i] as number;
    return cutLayer === 0 ? [] : [{ devices: [id], protocol: "split", cutLayer }];
  });
  const task = await writeTask(world, name, {
    ...exact,
    assignments,
    split: { ...wire, ...split },
  });
  const federated = await federate(world, { task, run: join(root, "runs", name), devices });
  const expected = ids.map((id, i) => [id, cuts[i] ? `split (cut ${cuts[i]})` : "full"]);
  t.same(frameworksOf(federated), Object.fromEntries(expected), name);
  return federated;
}

const whole = await adapterAt("whole", [0, 0, 0]);

t.test("at every cut, in any mixture, the adapter is that of full devices", async (t) => {
  for (const [name, cuts, split] of [
    ["first", [1, 1, 1], {}],
    ["second", [2, 2, 2], {}],
    ["mixed", [2, 0, 1], {}],
    ["u-shape", [1, 2, 0], { uShape: true }],
    ["u-shape-tail", [1, 1, 1], { uShape: true, tailLayers: 1 }],
  ] as const) {
    const { adapter } = await adapterAt(name, cuts, split);
    t.ok(adapter.equals(whole.adapter), name);
  }
});

t.test("what devices make of a shared part is known when their round closes", async (t) => {
  const shared = { tails: "shared", pipeline: true, patienceSeconds: 600 };
  const first = await adapterAt("shared", [2, 2, 0], shared);
  const again = await adapterAt("shared-again", [2, 2, 0], shared);
  t.ok(again.adapter.equals(first.adapter), "equal runs give equal bytes");
  t.notOk(first.adapter.equals(whole.adapter));
  const kinds = (one: typeof first) => new Set(one.records.map(({ kind }) => kind));
  t.notOk(kinds(first).has("result"), "no result is known at delivery");
  const closed = first.events.filter((event) => event.kind === "closed");
  t.same(
    closed.map(({ accepted }) => accepted),
    [ids, ids],
  );
});

t.test(
  "a coordinator that is killed trains a shared part anew, with those that had delivered",
  async (t) => {
    const task = await writeTask(world, "killed", {
      ...exact,
      assignments: [{ devices: ["a", "b"], protocol: "split", cutLayer: 2 }],
      split: { ...wire, tails: "shared" },
    });
    const port = await freePort();
    const hop = await startHop(port);
    t.teardown(() => hop.close());
    const killed = { world, task, folder: join(root, "runs", "killed") };
    await mkdir(killed.folder, { recursive: true });
    const near = `mqtt://127.0.0.1:${port}`;
    const first = coordinatorOf(t, killed, ["--anonymous", "--listen", near]);
    const joined = devices.map((device) => {
      // One device is cut off while it trains, so that the round stays open.
      const onLine = (line: string) => {
        if (line.startsWith("round 1: full")) hop.cut();
      };
      const address = device.id === "c" ? `mqtt://127.0.0.1:${hop.port}` : near;
      return deviceHere(t, killed, device, { address, onLine });
    });
    await journaled(killed.folder, (one) => one.kind === "report" && one.deviceId === "a");
    await kill(first);
    const second = coordinatorOf(t, killed, ["--anonymous", "--listen", near]);
    await second.said(/going on with round 1, attempt 1/);
    hop.restore();
    const { status, stderr } = await second.finished;
    t.equal(status, 0, stderr);
    await Promise.all(joined);
    const records = await recordsOf(killed.folder);
    const closed = records.flatMap((one) => (one.kind === "closed" ? [one.accepted] : []));
    t.same(
      closed.map((accepted) => Object.keys(accepted).sort()),
      [ids, ids],
    );
    t.equal(closed[0]?.["a"], 2, "its first lane went with the part");
  },
);
