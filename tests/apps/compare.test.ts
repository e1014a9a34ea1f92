// A small comparison from its file to compare.json, interrupted once, its figures reckoned again from the run folders.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { parse, stringify } from "yaml";
import type { ComparisonResult } from "../../apps/compare/comparison.ts";
import { readComparison } from "../../apps/compare/comparison-file.ts";
import type { ComparisonPlan } from "../../apps/compare/plan.ts";
import { type ComparisonProgress, runComparison } from "../../apps/compare/run-comparison.ts";
import { parseSweep } from "../../apps/compare/sweep.ts";
import { writeComparison } from "../../apps/compare/write-comparison.ts";
import { startDevice } from "../../apps/device/start.ts";
import { interruption } from "../../apps/failure.ts";
import type { StartBoard } from "../../apps/virtual-boards/board-process.ts";
import { makeWorld, smallTexts, tableOf } from "./small-federation.ts";

const world = await makeWorld(t.testdir());
await writeFile(join(world.folder, "train.csv"), tableOf(smallTexts("train", 60)));
const settings = {
  name: "small",
  seed: 7,
  model: "model",
  head: { kind: "classification", labels: ["land", "sea"] },
  data: { train: "train.csv", test: "test.csv", public: "public.csv" },
  adapter: { rank: 2, alpha: 4, targets: ["c_attn"] },
  training: { rounds: 2, localSteps: 2, batchSize: 4, sequenceLength: 16 },
  kd: { distillationSteps: 1 },
  devices: { count: 2 },
  compare: { frameworks: ["full", "kd"], seeds: 2, publicSize: 10 },
};
const file = join(world.folder, "compare.yaml");
await writeFile(file, stringify(settings));
const out = join(world.folder, "out");

/** Runs the file's comparison and gives what it told. */
async function compare(onProgress: (told: ComparisonProgress) => void, signal: AbortSignal) {
  const plan = await readComparison(file);
  const { cacheFolder } = world;
  const place = { out, cacheFolder, start: startInThisProcess };
  return runComparison({ ...plan, ...place, withBaselines: true, signal, onProgress });
}

/** Eight processes would take a minute to start on a busy machine. */
const startInThisProcess: StartBoard = async ({ files, brokerUrl, runFolder, ...place }) => {
  const stopped = new AbortController();
  const ended = startDevice({
    ...files,
    ...{ broker: brokerUrl, federation: place.federation, cacheFolder: place.cacheFolder },
    ...(place.modelFolder === undefined ? {} : { model: place.modelFolder }),
    ...{ state: join(runFolder, "devices", files.id), textColumn: "text", labelColumn: "label" },
    signal: stopped.signal,
    log: () => undefined,
  });
  const status = ended.then(
    () => "0",
    (error: Error) => error.message,
  );
  return { id: files.id, pid: 0, ended: status, kill: () => stopped.abort(interruption()) };
};

const stop = new AbortController();
let begun = 0;
const interrupted = compare((told) => {
  if (told.kind === "run") begun = told.index;
  const isHalfway = begun === 2 && told.kind === "event" && told.event.kind === "closed";
  if (isHalfway) stop.abort(interruption());
}, stop.signal);
await t.rejects(interrupted, { message: "interrupted" });
const told: ComparisonProgress[] = [];
const result = await compare((one) => told.push(one), AbortSignal.timeout(240_000));
await writeComparison(out, result);

t.test("the same command reads what is finished and goes on with what is not", async (t) => {
  const runs = told.filter((one) => one.kind === "run").map(({ isKnown }) => isKnown);
  t.same(runs, [true, false, false, false]);
  const resumed = told.flatMap((one) =>
    one.kind === "event" && one.event.kind === "resumed" ? [one.event.round] : [],
  );
  t.same(resumed, [2], "after its first round");
});

/** A line of metrics.jsonl. */
interface Line {
  readonly kind: "device" | "round";
  readonly isAccepted: boolean;
  readonly accuracy: number;
  readonly seconds: number;
  readonly [figure: string]: unknown;
}

async function linesOf(framework: string, seed: number): Promise<readonly Line[]> {
  const path = join(out, "runs", framework, `seed-${seed}`, "metrics.jsonl");
  const text = await readFile(path, "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

t.test("compare.json is what the run folders' metrics amount to", async (t) => {
  const written = JSON.parse(await readFile(join(out, "compare.json"), "utf8")) as ComparisonResult;
  t.same(written.task.seeds, [7, 8]);
  t.same(
    written.configurations.map(({ framework }) => framework),
    ["full", "kd"],
  );
  for (const one of written.configurations) {
    const perSeed = [await linesOf(one.framework, 7), await linesOf(one.framework, 8)];
    const devices = perSeed.map((lines) => lines.filter(({ kind }) => kind === "device"));
    t.same(
      devices.map((lines) => lines.length),
      [4, 4],
      "two devices, two rounds, none twice",
    );
    // Every seed has as many lines, so the mean of its means is the mean of all.
    const all = devices.flat();
    const expected = (figure: string) => mean(all.map((line) => line[figure] as number));
    const near = (value: number, wanted: number, what: string) =>
      t.ok(Math.abs(value - wanted) <= 1e-12 * Math.abs(wanted), `${what}: ${value} ${wanted}`);
    near(one.uplinkBytesPerDeviceRound, expected("uplinkBytes"), "up");
    near(one.downlinkBytesPerDeviceRound, expected("downlinkBytes"), "down");
    near(
      one.rawBytesPerDeviceRound,
      expected("rawUplinkBytes") + expected("rawDownlinkBytes"),
      "raw",
    );
    near(one.flopsPerDeviceRound, expected("flops"), "flops");
    const peaks = devices.map((lines) =>
      Math.max(...lines.map((line) => line["peakMemoryBytes"] as number)),
    );
    near(one.peakMemoryBytes, mean(peaks), "memory");
    const rounds = perSeed.flat().filter(({ kind }) => kind === "round");
    near(one.secondsPerRound, mean(rounds.map(({ seconds }) => seconds)), "seconds");
    const [a = 0, b = 0] = perSeed.map(
      (lines) => lines.findLast(({ kind }) => kind === "round")?.accuracy,
    );
    near(one.accuracy?.mean ?? 0, (a + b) / 2, "accuracy");
    // The sample deviation of two values is their distance over the square root of 2.
    t.ok(Math.abs((one.accuracy?.std ?? 0) - Math.abs(a - b) / Math.SQRT2) < 1e-12);
    t.ok(one.uplinkBytesPerDeviceRound > 0 && one.peakMemoryBytes > 0);
  }
});

t.test("each device was given the framework that its configuration names", async (t) => {
  for (const { framework, perSeed } of result.configurations) {
    for (const { devices } of perSeed)
      t.same(devices, { "device-1": framework, "device-2": framework });
  }
});

t.test("the baselines stand beside, on as many examples", async (t) => {
  const { baselines } = result;
  const names = ["centralised", "best device alone", "devices alone, mean", "untrained"];
  t.same(
    baselines.map(({ name }) => name),
    names,
  );
  for (const { scores } of baselines)
    t.ok(scores.length === 2 && scores.every((one) => one >= 0 && one <= 1));
  // Two devices, two rounds of two steps each: eight steps.
  const steps = told.flatMap((one) => (one.kind === "baseline" ? [one.steps] : []));
  t.same([...new Set(steps)], [8]);
});

t.test("page, table and plots are written; the page loads nothing", async (t) => {
  const page = await readFile(join(out, "compare.html"), "utf8");
  t.notMatch(
    page,
    /<(script|link|img|iframe|object|embed)\b|url\(|@import|NaN|Infinity|undefined/i,
  );
  for (const { text } of result.verdicts) t.ok(page.includes(text), text);
  const [head = "", ...rows] = (await readFile(join(out, "compare.csv"), "utf8"))
    .trim()
    .split("\n");
  t.equal(rows.length, 8, "two configurations, two seeds, two rounds");
  t.ok(rows.every((row) => row.split(",").length === head.split(",").length));
  t.match(
    await readFile(join(out, "plots", "score-rounds.svg"), "utf8"),
    /^<svg .*accuracy on the test set, %/s,
  );
});

t.test("a folder of other texts is refused, and so are wrong files and options", async (t) => {
  const signal = AbortSignal.timeout(60_000);
  const run = (plan: ComparisonPlan) => {
    const { cacheFolder } = world;
    return runComparison({
      ...{ ...plan, out, cacheFolder, signal, withBaselines: false },
      onProgress: () => undefined,
    });
  };
  const plan = await readComparison(file);
  await t.rejects(run({ ...plan, rowsPerDevice: 20 }), { code: "COMPARISON_CHANGED" });
  const swept = async (text: string) => {
    const frameworks = ["split"] as const;
    const sweep = Object.assign({}, ...text.split(" ").map(parseSweep));
    return run(await readComparison(file, { frameworks, sweep }));
  };
  const option = { code: "OPTION_INVALID" };
  await t.rejects(swept("rank=x"), { ...option, message: /split rank=x: adapter.rank: / });
  const first = /split rank=0 training\.localSteps=2: adapter\.rank: /;
  await t.rejects(swept("rank=0 training.localSteps=2"), { ...option, message: first });
  await t.rejects(swept("split.no=1"), { ...option, message: /split.no/ });
  await t.rejects(swept("cut=9"), { code: "TASK_FILE_INVALID", message: /cutLayer/ });
  const written = async (name: string, changed: object) => {
    const path = join(world.folder, name);
    await writeFile(path, stringify({ ...settings, ...changed }));
    return readComparison(path);
  };
  const code = "TASK_FILE_INVALID";
  const misspelt = written("misspelt.yaml", { devices: { cuont: 2 } });
  await t.rejects(misspelt, { code, message: /misspelt\.yaml:\d+: devices\.cuont: / });
  const assigned = written("assigned.yaml", { assignments: [] });
  await t.rejects(assigned, { code, message: /: assignments: / });
});

t.test(
  "the shipped example covers the frameworks and a mix of them on the embedded model",
  async (t) => {
    const path = "examples/compare-small.yaml";
    const plan = await readComparison(path, { seeds: 2, devices: 6 });
    t.same(
      plan.configurations.map(({ framework }) => framework),
      ["full", "kd", "split", "mixed"],
    );
    t.equal(plan.modelFolder, undefined);
    t.same(plan.seeds, [1, 2]);
    t.equal(plan.devices.length, 6);
    t.same(parse(await readFile(path, "utf8")).compare.mixed, plan.mixed);
  },
);
