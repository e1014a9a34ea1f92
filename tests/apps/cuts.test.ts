// Split devices at every cut against full ones, and devices that share a part, over the real broker.
import { join } from "node:path";
import t from "tap";
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

t.test("devices that share a part are in the journal when their round closes", async (t) => {
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
