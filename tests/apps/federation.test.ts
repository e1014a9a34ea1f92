// Whole federations over a real broker: coordinator and device programs, each framework and all of them at once.
import { appendFile, mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import type { RunReport } from "../../apps/report/run-report.ts";
import { decodeEnvelope } from "../../broker/index.ts";
import { boardProfile } from "../../devices/index.ts";
import { loadAdapter, openTokenizer, readSafetensors } from "../../runtime/index.ts";
import { mosquittoMissing, startMosquitto } from "../broker/network.ts";
import { findings, partsOf, seenOnWire } from "./canaries.ts";
import { runTrifold } from "./program.ts";
import {
  type Federated,
  federate,
  frameworksOf,
  makeWorld,
  type SmallDevice,
  smallTexts,
  writeTask,
} from "./small-federation.ts";
import { startWiretap, type Wiretap } from "./wiretap.ts";

const { board } = boardProfile("pi-5");
const root = t.testdir();
const world = await makeWorld(root);
const run = (name: string) => join(root, "runs", name);

/** Strings that private rows hold and nothing else. */
const canaries = new Map(["a", "b", "c"].map((id) => [id, `xylograph${id}quokka`]));
/** One that everybody may see, to prove that the search finds what is there. */
const publicCanary = "zeugmaticbandicoot";
await appendFile(join(root, "public.csv"), `"the ${publicCanary} and the ship",sea\n`);

const mixedDevices = (["full", "kd", "split"] as const).map((framework, i): SmallDevice => {
  const id = "abc"[i] as string;
  return { id, framework, rows: [...smallTexts(id, 18), [`the ${canaries.get(id)}`, "sea"]] };
});
const mixedTask = await writeTask(world, "mixed", { cohort: { minimumDevices: 3 } });
const mixed = (name: string, more: { readonly broker?: string } = {}) =>
  federate(world, { task: mixedTask, run: run(name), devices: mixedDevices, ...more });

/** The run that the others are compared with: every device behind a wiretap. */
const taps: Wiretap[] = [];
const uploads: Promise<readonly Buffer[]>[] = [];
await mkdir(run(""), { recursive: true });
const tapped = await federate(world, {
  task: mixedTask,
  run: run("tapped"),
  devices: mixedDevices,
  addressFor: async (url) => {
    const tap = await startWiretap(Number(new URL(url).port));
    taps.push(tap);
    return tap.url;
  },
  onEvent: ({ kind }) => {
    // Uploads are forgotten when their round closes.
    if (kind === "reported") uploads.push(filesBelow(join(run("tapped"), "journal", "uploads")));
  },
});
t.teardown(async () => {
  for (const tap of taps) await tap.close();
});

t.test("full, kd and split make one adapter that PEFT names and evaluate scores", async (t) => {
  const { result, events, runFolder } = tapped;
  t.same(frameworksOf(tapped), { a: "full", b: "kd", c: "split (cut 1)" });
  t.match(result, { rounds: 2, runFolder });
  const closed = events.filter((event) => event.kind === "closed");
  t.same(
    closed.map(({ round, accepted }) => [round, accepted]),
    [
      [1, ["a", "b", "c"]],
      [2, ["a", "b", "c"]],
    ],
  );
  const { lora, labels } = await loadAdapter(join(runFolder, "adapter"));
  t.match(lora, { rank: 4, alpha: 8, targets: ["c_attn"] });
  t.same(labels, ["land", "sea"]);
  const file = await readSafetensors(join(runFolder, "adapter", "adapter_model.safetensors"));
  t.ok(file.tensors.has("base_model.model.transformer.h.2.attn.c_attn.lora_B.weight"));
  t.ok(file.tensors.has("base_model.model.score.weight"));
  const adapter = ["--model", world.modelFolder, "--adapter", join(runFolder, "adapter")];
  const data = ["--data", join(root, "test.csv"), "--sequence-length", "16", "--json"];
  const evaluated = await runTrifold(["evaluate", ...adapter, ...data], {
    TRIFOLD_CACHE: world.cacheFolder,
  });
  t.equal(evaluated.status, 0, evaluated.stderr);
  // The same model on the same test set as the coordinator's last score.
  t.match(JSON.parse(evaluated.stdout), { examples: 40, accuracy: result.accuracy });
});

t.test("a run folder holds the task, a line per round and device, and a checkpoint", async (t) => {
  const { runFolder, result } = tapped;
  const task = JSON.parse(await readFile(join(runFolder, "task.json"), "utf8"));
  t.match(task, { name: "small", seed: 7, manifest: { publicSet: { size: 13 } } });
  const lines = (await readFile(join(runFolder, "metrics.jsonl"), "utf8")).trim().split("\n");
  const metrics = lines.map((line) => JSON.parse(line));
  t.equal(metrics.filter(({ kind }) => kind === "device").length, 6);
  const refinements = metrics.filter(({ kind }) => kind === "refinement");
  t.same(
    refinements.map(({ round }) => round),
    [1, 2],
  );
  for (const {
    divergenceBefore,
    divergenceAfter,
    agreementBefore,
    agreementAfter,
  } of refinements) {
    t.ok(divergenceAfter <= divergenceBefore, `${divergenceBefore} to ${divergenceAfter} nats`);
    // Of 13 public texts.
    for (const share of [agreementBefore, agreementAfter]) t.ok(Number.isInteger(share * 13));
  }
  t.match(metrics.at(-1), { kind: "round", round: 2, devices: 3, accuracy: result.accuracy });
  t.same(await readdir(join(runFolder, "checkpoints")), [
    "round-0001.safetensors",
    "round-0002.safetensors",
  ]);
  t.same(await readdir(join(runFolder, "journal", "uploads")), []);
});

t.test("a run folder says what devices are and what they were expected to take", async (t) => {
  const { runFolder, result } = tapped;
  const text = (name: string) => readFile(join(runFolder, name), "utf8");
  const report = JSON.parse(await text("report.json")) as RunReport;
  t.equal(report.accuracy, result.accuracy);
  t.same(
    report.devices.map(({ id, framework, board, rounds }) => [id, framework, board, rounds]),
    ["full", "kd", "split"].map((framework, i) => ["abc"[i], framework, board.model, 2]),
  );
  // FLOPs are counted on the very graphs that run; kd distils only once there is knowledge, after its first round.
  const [full, , split] = report.devices;
  t.equal(full?.flops, 2 * (full?.estimate?.flops ?? 0));
  t.equal(split?.flops, 2 * (split?.estimate?.flops ?? 0));
  const profiles = JSON.parse(await text("profiles.json"));
  t.same(Object.keys(profiles), ["a", "b", "c"]);
  t.same(profiles.b.profile.board, board);
  t.type(profiles.b.budget.uplinkBytesPerRound, "number", "what made it a kd device");
  t.match(await text("report.html"), "<title>Trifold: small</title>");
});

t.test("the same seed gives the same numbers again", async (t) => {
  const again = await mixed("again");
  t.same(numbersOf(again), numbersOf(tapped));
  t.ok(again.adapter.equals(tapped.adapter), "adapter");
});

t.test(
  "Mosquitto serves as well, with the same numbers",
  {
    skip: mosquittoMissing() ?? false,
  },
  async (t) => {
    const broker = await startMosquitto(t.testdir());
    const other = await mixed("mosquitto", { broker: `mqtt://127.0.0.1:${broker.port}` });
    await broker.close();
    t.same(numbersOf(other), numbersOf(tapped));
    t.ok(other.adapter.equals(tapped.adapter), "adapter");
  },
);

t.test("no text of a private row is on the wire or in the coordinator's folder", async (t) => {
  const tokenizer = await openTokenizer(world.modelFolder);
  const wire = await seenOnWire(taps);
  const kept = [...(await Promise.all(uploads)).flat(), ...(await filesBelow(run("tapped")))];
  const messages = kept.filter((bytes) => bytes.toString("latin1", 0, 2) === "TF");
  t.ok(messages.length > 0, "journaled uploads are among the files");
  const opened = await Promise.all(
    messages.map(async (bytes) => partsOf(await decodeEnvelope(bytes))),
  );
  kept.push(...opened.flat());
  t.same(findings(publicCanary, wire, tokenizer.encode), ["utf8"]);
  for (const canary of canaries.values()) {
    t.same(findings(canary, wire, tokenizer.encode), [], `${canary} on the wire`);
    t.same(findings(canary, kept, tokenizer.encode), [], `${canary} in the folder`);
  }
});

/** Steps enough to learn the words of two topics, and nothing narrowed. */
const learning = {
  training: { localSteps: 8, learningRate: 2e-2 },
  full: { encoding: "float32" },
  split: { activations: "float32", gradients: "float32" },
  kd: { encoding: "float32", distillationSteps: 8, learningRate: 1e-2 },
};

t.test("split in place of full leaves every byte of the adapter", async (t) => {
  const task = await writeTask(world, "swap", { ...learning, cohort: { minimumDevices: 3 } });
  const play = (name: string, split: readonly string[]) =>
    federate(world, {
      task,
      run: run(name),
      devices: ["a", "b", "c"].map((id) => {
        return split.includes(id) ? { id, framework: "split" } : { id };
      }),
    });
  const whole = await play("whole", []);
  const some = await play("some", ["a", "c"]);
  const all = await play("all", ["a", "b", "c"]);
  t.same(frameworksOf(whole), { a: "full", b: "full", c: "full" });
  t.same(frameworksOf(some), { a: "split (cut 1)", b: "full", c: "split (cut 1)" });
  t.same(frameworksOf(all), { a: "split (cut 1)", b: "split (cut 1)", c: "split (cut 1)" });
  t.ok(some.adapter.equals(whole.adapter));
  t.ok(all.adapter.equals(whole.adapter));
  // The topics share no noun; guessing gives a half, with a deviation of 0.08 over 40 texts.
  t.ok((whole.result.accuracy ?? 0) >= 0.9, `accuracy ${whole.result.accuracy}`);
});

t.test("a language model is federated and scored by its perplexity", async (t) => {
  const training = { rounds: 2, localSteps: 8, learningRate: 0.01 };
  const task = await writeTask(world, "lm", { head: { kind: "lm" }, training });
  const devices = ["a", "b"].map((id): SmallDevice => ({ id, hasLabels: id === "a" }));
  const { result, events, runFolder } = await federate(world, { task, run: run("lm"), devices });
  const rounds = events.filter((event) => event.kind === "scored");
  t.equal(result.accuracy, undefined);
  t.ok((rounds[1]?.perplexity ?? 0) < (rounds[0]?.perplexity ?? 0));
  t.equal(rounds[1]?.perplexity, result.perplexity);
  const page = await readFile(join(runFolder, "report.html"), "utf8");
  t.match(page, /Perplexity of the global model/);
  const adapter = ["--model", world.modelFolder, "--adapter", join(runFolder, "adapter")];
  const data = ["--data", join(root, "test.csv"), "--sequence-length", "16", "--json"];
  const evaluated = await runTrifold(["evaluate", ...adapter, ...data], {
    TRIFOLD_CACHE: world.cacheFolder,
  });
  t.equal(evaluated.status, 0, evaluated.stderr);
  const { perplexity } = JSON.parse(evaluated.stdout);
  // Batches of another size add the same losses in another order.
  t.ok(Math.abs(perplexity / (result.perplexity ?? 0) - 1) < 1e-5, `${perplexity}`);
});

t.test("kd alone teaches the coordinator's model what its devices know", async (t) => {
  const task = await writeTask(world, "kd", { ...learning, cohort: { minimumDevices: 2 } });
  const devices = ["a", "b"].map((id): SmallDevice => ({ id, framework: "kd" }));
  const { result, records } = await federate(world, { task, run: run("kd"), devices });
  // It never saw a label: as above, 0.75 is three deviations from guessing.
  t.ok((result.accuracy ?? 0) >= 0.75, `accuracy ${result.accuracy}`);
  const provisioned = records.flatMap((record) =>
    record.kind === "report" ? [[record.lane, record.report.provisioningBytes > 0]] : [],
  );
  t.same(provisioned.sort(), [
    [1, true],
    [1, true],
    [2, false],
    [2, false],
  ]);
});

/** Everything that must not depend on time: all but seconds, memory and repeats. */
function numbersOf({ records }: Federated): unknown {
  const rounds = records.flatMap((record) =>
    record.kind === "closed" ? [[record.round, record.accepted]] : [],
  );
  const scores = records.flatMap((record) =>
    record.kind === "scored" ? [[record.round, record.accuracy]] : [],
  );
  const assignments = records.flatMap((record) =>
    record.kind === "lane" ? [[record.deviceId, record.lane, record.assignment]] : [],
  );
  const reports = records.flatMap((record) => {
    if (record.kind !== "report") return [];
    const { trainSeconds: _, peakMemoryBytes: __, idleMemoryBytes: ___, ...report } = record.report;
    const { uplinkBytes, repeatedBytes, downlinkBytes, provisioningBytes, ...others } = report;
    const payloadBytes = uplinkBytes - repeatedBytes;
    // An acknowledgement of 58 bytes may come just before the public set is fetched or while it is: which of the two it is
    // counted to is chance, their sum is not.
    const receivedBytes = downlinkBytes + provisioningBytes;
    return [[record.deviceId, record.lane, { ...others, payloadBytes, receivedBytes }]];
  });
  return { rounds, scores, assignments: sorted(assignments), reports: sorted(reports) };
}

/** In device and lane order: devices that work at once report in any. */
function sorted<T>(rows: readonly T[]): T[] {
  return rows.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
}

async function filesBelow(folder: string): Promise<readonly Buffer[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  // A file that is renamed meanwhile is there under its other name.
  const read = async (file: string) => readFile(file).catch(() => Buffer.alloc(0));
  return Promise.all(files.map(({ parentPath, name }) => read(join(parentPath, name))));
}
