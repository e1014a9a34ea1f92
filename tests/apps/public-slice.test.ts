// A public set that is a slice of the task's own data.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { makeWorld, tableOf, writeTask } from "./small-federation.ts";

t.test("a fraction of the test texts becomes the public set and leaves the test set", async (t) => {
  const world = await makeWorld(t.testdir());
  // Numbers, so that every text differs.
  const rows = Array.from({ length: 41 }, (_, i) => [`text ${i}`, i % 2 ? "land" : "sea"] as const);
  await writeFile(join(world.folder, "test.csv"), tableOf(rows));
  const prepare = async (name: string, settings: Readonly<Record<string, unknown>>) => {
    const file = await writeTask(world, name, settings);
    return prepareTask(await readTaskFile(file), world.cacheFolder);
  };
  const texts = (examples: readonly { readonly tokens: readonly number[] }[]) =>
    examples.map(({ tokens }) => tokens.join(" "));
  const data = { test: "test.csv", publicFraction: 0.25 };
  const [all, one, again, other] = [
    await prepare("all", { data: { test: "test.csv" } }),
    await prepare("one", { data }),
    await prepare("again", { data }),
    await prepare("other", { data, seed: 8 }),
  ];
  t.equal(one.publicSet.length, 10, "a quarter of 41, rounded down");
  t.equal(one.task.manifest.publicSet?.size, 10);
  t.same(
    texts([...one.publicSet, ...one.testSet]).sort(),
    texts(all.testSet).sort(),
    "all are in one of both",
  );
  t.same(
    texts(one.testSet),
    texts(all.testSet).filter((text) => !texts(one.publicSet).includes(text)),
    "the rest keeps its order",
  );
  t.ok(
    one.publicSet.every(({ label }) => label === -1),
    "labels do not go along",
  );
  t.same(one.publicBytes, again.publicBytes, "the same ones for the same seed");
  t.notSame(one.publicBytes, other.publicBytes);
  t.equal(all.task.manifest.publicSet, undefined);
});

t.test("a task has one source of public texts", async (t) => {
  const world = await makeWorld(t.testdir());
  const data = { test: "test.csv", public: "public.csv", publicFraction: 0.2 };
  await t.rejects(readTaskFile(await writeTask(world, "both", { data })), {
    code: "TASK_FILE_INVALID",
    message: /data\.publicFraction: .*data\.public/,
  });
});
