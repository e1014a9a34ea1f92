// Rounds that ask some of the devices only, over a real broker.
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { aggregationBytes, chooseCohort, shapesOf } from "../../protocols/index.ts";
import { federate, makeWorld, type SmallDevice, writeTask } from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
const run = (name: string) => join(root, "runs", name);
await mkdir(run(""), { recursive: true });
const ids = ["a", "b", "c", "d"];
const devices = ids.map((id): SmallDevice => ({ id }));

t.test("a round starts whom it asks, closes with them, and leaves the others idle", async (t) => {
  const cohort = { minimumDevices: 2, fraction: 0.5 };
  const task = await writeTask(world, "half", { cohort, training: { rounds: 4 } });
  const { records, events, log } = await federate(world, { task, run: run("half"), devices });
  const asked = records.flatMap((record) => (record.kind === "round" ? [record.cohort ?? []] : []));
  t.equal(asked.length, 4, "no round was opened again");
  const lanes = (round: number) =>
    records.flatMap((record) =>
      record.kind === "lane" && record.round === round ? [record.deviceId] : [],
    );
  for (const [i, chosen] of asked.entries()) {
    t.equal(chosen.length, 2);
    t.same(lanes(i + 1).toSorted(), chosen, "nobody else got a lane");
  }
  const closed = events.flatMap((event) => (event.kind === "closed" ? [event.accepted] : []));
  t.same(closed, asked);
  // Once all four are there, the draw is the task's.
  const allThere = events.findLastIndex(({ kind }) => kind === "assigned");
  const nextClosed = events.findIndex(({ kind }, i) => kind === "closed" && i > allThere);
  const later = events.slice(nextClosed).filter((event) => event.kind === "round");
  t.ok(later.length > 0);
  const candidates = ids.map((deviceId) => ({ deviceId, seconds: undefined }));
  for (const { round, attempt, asked: chosen } of later)
    t.same(
      chosen,
      chooseCohort(candidates, { ...cohort, choice: "random" }, { seed: 7, round, attempt }),
    );
  t.equal(log.filter((line) => line.endsWith("the task is finished")).length, 4, "all are told");
  const metrics = (await readFile(join(run("half"), "metrics.jsonl"), "utf8")).trim().split("\n");
  const perRound = metrics.map((line) => JSON.parse(line)).filter(({ kind }) => kind === "round");
  t.same(
    perRound.map(({ devices: count }) => count),
    [2, 2, 2, 2],
  );
});

t.test(
  "a round that is below its minimum at the deadline is opened again and asks others",
  async (t) => {
    // Nobody delivers within a millisecond, so every attempt draws anew; a run ends by what its audience throws.
    const cohort = { minimumDevices: 1, fraction: 0.25, roundDeadlineMs: 1 };
    const task = await writeTask(world, "late", { cohort, training: { rounds: 1 } });
    let attempts = 0;
    const enough = new Error("seen enough");
    const running = federate(world, {
      task,
      run: run("late"),
      devices,
      onEvent: ({ kind }) => {
        if (kind === "reopened") attempts += 1;
        if (attempts === 8) throw enough;
      },
    });
    await t.rejects(running, enough);
    const text = await readFile(join(run("late"), "journal", "records.jsonl"), "utf8");
    const rounds = text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    const drawn = rounds.flatMap(({ kind, cohort: chosen }) => (kind === "round" ? [chosen] : []));
    t.ok(drawn.every((chosen) => chosen.length === 1));
    t.ok(new Set(drawn.flat()).size > 1, `${drawn.join(" ")}: another device had its turn`);
  },
);

t.test(
  "a device beyond what the aggregation's memory carries is left out, and told why",
  async (t) => {
    const plain = await writeTask(world, "plain", { cohort: { minimumDevices: 2 } });
    const { task } = await prepareTask(await readTaskFile(plain), world.cacheFolder);
    const aggregation = { ...task.aggregation, combine: "median" } as const;
    const memoryBytes = aggregationBytes(aggregation, 2, shapesOf(task));
    const settings = (bytes: number) => ({
      aggregation: { combine: "median", memoryBytes: bytes },
      cohort: { minimumDevices: 2 },
    });
    const tight = await writeTask(world, "tight", settings(memoryBytes));
    const devices = ["a", "b", "c"].map((id) => ({ id }));
    const { events, log } = await federate(world, { task: tight, run: run("tight"), devices });
    const closed = events.flatMap((event) => (event.kind === "closed" ? [event.accepted] : []));
    t.same(
      closed.map(({ length }) => length),
      [2, 2],
    );
    t.notOk(events.some(({ kind }) => kind === "reopened"));
    const told = log.filter((line) =>
      /left out of round \d: .*room for the updates of 2/.test(line),
    );
    t.equal(told.length, 2, "once a round");
    const tighter = await readTaskFile(
      await writeTask(world, "tighter", settings(memoryBytes - 1)),
    );
    await t.rejects(prepareTask(tighter, world.cacheFolder), {
      code: "AGGREGATION_MEMORY_EXCEEDED",
      message: /2 devices: median needs/,
    });
  },
);
