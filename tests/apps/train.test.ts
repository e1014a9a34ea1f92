// `trifold train` and `trifold evaluate` on tables as people have them.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import t from "tap";
import { embeddedModelFolder, packageRoot } from "../../apps/package-root.ts";
import { createProgress, progressText } from "../../apps/progress.ts";
import { evaluateAdapter } from "../../apps/train/evaluation.ts";
import type { TrainingOptions } from "../../apps/train/options.ts";
import { measurePerplexity } from "../../apps/train/perplexity.ts";
import { majorityShare } from "../../apps/train/scoring.ts";
import { trainAdapter } from "../../apps/train/training.ts";
import {
  type Float32Tensor,
  initialParameters,
  loadAdapter,
  openBaseModel,
  ortEngine,
  probeProviders,
  randomStream,
  readSafetensors,
  saveAdapter,
} from "../../runtime/index.ts";
import { runTrifold, startTrifold } from "./program.ts";

const root = t.testdir();
const cacheFolder = join(root, "cache");
const environment = { TRIFOLD_CACHE: cacheFolder };
const lora = { rank: 4, alpha: 8, targets: ["c_attn"] };

/** Two topics that share no noun, with commas, quotes and newlines in the cells and columns in another order. */
function tableText(rows: number, seed: number): string {
  const random = randomStream("table", seed);
  const nouns = { sea: ["whale", "ship", "harpoon", "sail"], land: ["farm", "tax", "law", "road"] };
  const lines = Array.from({ length: rows }, () => {
    const topic = random.below(2) === 0 ? "sea" : "land";
    const words = Array.from({ length: 6 }, () => nouns[topic][random.below(4)]);
    return `${topic},7,"The ""${words[0]}"", the ${words.slice(1, 4).join(" and the ")},\nthe ${words[5]}"`;
  });
  return `topic,id,what was said\r\n${lines.join("\r\n")}\r\n`;
}

const trainFile = join(root, "train.csv");
const testFile = join(root, "test.csv");
await writeFile(trainFile, tableText(160, 1));
await writeFile(testFile, tableText(60, 2));
const columns = ["--text-column", "what was said", "--label-column", "topic"];

function options(out: string, more: Partial<TrainingOptions> = {}): TrainingOptions {
  return {
    model: embeddedModelFolder(),
    data: trainFile,
    textColumn: "what was said",
    labelColumn: "topic",
    head: "classification",
    lora,
    optimizer: "adamw",
    weightDecay: 0,
    epochs: 1,
    batchSize: 8,
    accumulate: 1,
    sequenceLength: 24,
    learningRate: 3e-3,
    warmUp: 0,
    schedule: "linear",
    labelSmoothing: 0,
    maxGradientNorm: 1,
    seed: 1,
    holdOutFraction: 0,
    out,
    checkpointEvery: 100,
    resume: false,
    threads: 1,
    cacheFolder,
    signal: new AbortController().signal,
    log: () => undefined,
    onStart: () => () => undefined,
    ...more,
  };
}

t.test(
  "a table with quotes and newlines becomes an adapter that tells its labels apart",
  async (t) => {
    const out = join(root, "adapter");
    const sizes = ["--batch-size", "8", "--sequence-length", "24", "--epochs", "2"];
    const args = ["train", "--data", trainFile, ...columns, ...sizes, "--out", out, "--json"];
    const trained = await runTrifold(args, environment);
    t.equal(trained.status, 0, trained.stderr);
    const report = JSON.parse(trained.stdout);
    // 160 rows, a fifth held out, 2 epochs of 128 rows in batches of 8.
    t.match(report, { trainExamples: 128, holdOutExamples: 32, steps: 32, interrupted: false });
    t.same(report.labels, ["land", "sea"]);
    t.match(trained.stderr, /32\/32 steps, loss \d/);
    const table = ["--data", testFile, ...columns, "--sequence-length", "24"];
    const evaluated = await runTrifold(
      ["evaluate", "--adapter", out, ...table, "--json"],
      environment,
    );
    t.equal(evaluated.status, 0, evaluated.stderr);
    const score = JSON.parse(evaluated.stdout);
    t.same(Object.keys(score), ["examples", "accuracy", "macroF1", "confusion", "labels"]);
    t.same(score.labels, ["land", "sea"]);
    const [[landLand, landSea], [seaLand, seaSea]] = score.confusion;
    t.equal(landLand + landSea + seaLand + seaSea, 60);
    t.equal((landLand + seaSea) / 60, score.accuracy);
    t.equal(score.examples, 60);
    const told = await runTrifold(["evaluate", "--adapter", out, ...table], environment);
    const right = (text: unknown, width: number) => String(text).padStart(width);
    t.match(told.stdout, `land  ${right(landLand, 4)}  ${right(landSea, 3)}\n`, "for people");
    t.match(told.stdout, `sea   ${right(seaLand, 4)}  ${right(seaSea, 3)}\n`);
    // The topics share no noun: anything that learned gets nearly all, a coin gets half (deviation 0.065).
    t.ok(score.accuracy >= 0.95, `accuracy ${score.accuracy}`);
    t.ok(report.accuracy >= 0.9, `hold-out ${report.accuracy}`);
    const config = JSON.parse(await readFile(join(out, "adapter_config.json"), "utf8"));
    t.match(config, { peft_type: "LORA", task_type: "SEQ_CLS", r: 8, lora_alpha: 16 });
  },
);

t.test("a provider that does not work is said once, and the CPU computes", async (t) => {
  const adapter = join(root, "provided");
  await trainAdapter(options(adapter, { steps: 2 }));
  const args = ["evaluate", "--adapter", adapter, "--data", testFile, ...columns, "--json"];
  const [cuda] = await probeProviders({ names: ["cuda"] });
  const asked = await runTrifold([...args, "--provider", "cuda"], environment);
  const plain = await runTrifold(args, environment);
  t.same([asked.status, plain.status], [0, 0], asked.stderr);
  const lines = asked.stderr.split("\n").filter((line) => line.includes("cuda"));
  t.equal(lines.length, cuda?.works ? 0 : 1, asked.stderr);
  t.notMatch(plain.stderr, /provider/);
  if (!cuda?.works) t.equal(asked.stdout, plain.stdout);
  const unknown = await runTrifold([...args, "--provider", "abacus"], environment);
  t.equal(unknown.status, 2);
  t.match(unknown.stderr, /^error USAGE_INVALID: .*abacus.*auto, cpu, cuda/);
});

t.test(
  "block by block trains the bytes of the whole graph, and a budget may lead there",
  async (t) => {
    const weights = async (out: string) => await readFile(join(out, "adapter_model.safetensors"));
    const [whole, blocks] = [join(root, "whole"), join(root, "blocks")];
    await trainAdapter(options(whole, { steps: 3 }));
    const execution = { mode: "blocks-float32" } as const;
    const report = await trainAdapter(options(blocks, { steps: 3, execution }));
    t.equal(report.mode, "blocks-float32");
    t.ok((await weights(blocks)).equals(await weights(whole)));
    const logged: string[] = [];
    const roomy = await trainAdapter(
      options(join(root, "roomy"), {
        steps: 1,
        execution: { memoryBytes: 4e9 },
        log: (text) => logged.push(text),
      }),
    );
    t.equal(roomy.mode, "whole-float32");
    t.match(
      logged.at(-1),
      /^memory: whole-float32 of whole-float32 \d.* MB, .*blocks-int8 \d.* MB/,
    );
    const named = { memoryBytes: 2e6, mode: "blocks-int8" } as const;
    const forced = await trainAdapter(
      options(join(root, "forced"), { steps: 1, execution: named }),
    );
    t.equal(forced.mode, "blocks-int8", "a mode that is named wins over the budget");
    const tight = trainAdapter(options(join(root, "tight"), { execution: { memoryBytes: 2e6 } }));
    await t.rejects(tight, {
      code: "MEMORY_BUDGET_TOO_SMALL",
      message: /fits 2 MB: whole-float32/,
    });
  },
);

t.test("a cached prefix trains the same bytes and says what it saved", async (t) => {
  const upper = { ...lora, layers: [3] };
  const args = { lora: upper, epochs: 2 };
  const [plain, cached] = [join(root, "plain-prefix"), join(root, "cached-prefix")];
  await trainAdapter(options(plain, args));
  const report = await trainAdapter(
    options(cached, { ...args, prefixCache: { memoryBytes: 1e8 } }),
  );
  const [a, b] = await Promise.all(
    [plain, cached].map((out) => readFile(join(out, "adapter_model.safetensors"))),
  );
  t.ok(a?.equals(b as Buffer));
  const [{ hits = 0, misses = 0 } = {}] = report.prefixCache ?? [];
  // 160 texts twice; equal texts are one.
  t.equal(hits + misses, 320);
  t.ok(misses <= 160 && hits >= 160, `${hits} hits, ${misses} misses`);
  const everywhere = options(join(root, "no-prefix"), { prefixCache: { memoryBytes: 1e8 } });
  await t.rejects(trainAdapter(everywhere), { code: "OPTION_INVALID", message: /block 0/ });
});

t.test("equal seeds give equal bytes, other seeds others", async (t) => {
  const folders = ["a", "b", "c"].map((name) => join(root, name));
  const seeds = [1, 1, 2];
  for (const [i, folder] of folders.entries()) {
    await trainAdapter(options(folder, { steps: 3, seed: seeds[i] as number }));
  }
  const bytes = folders.map((folder) => readFile(join(folder, "adapter_model.safetensors")));
  const [a, b, c] = (await Promise.all(bytes)) as [Buffer, Buffer, Buffer];
  t.ok(a.equals(b));
  t.notOk(a.equals(c));
});

t.test("an aborted training keeps the steps that were made", async (t) => {
  const controller = new AbortController();
  const out = join(root, "aborted");
  const onStart =
    () =>
    ({ step }: { readonly step: number }) => {
      if (step === 3) controller.abort(new Error("enough"));
    };
  const aborted = { steps: 500, signal: controller.signal, onStart, holdOutFraction: 0.2 };
  const report = await trainAdapter(options(out, aborted));
  t.match(report, { steps: 3, interrupted: true });
  t.notOk("accuracy" in report);
  t.same((await loadAdapter(out)).labels, ["land", "sea"]);
  await t.rejects(trainAdapter(options(out, aborted)), { message: "enough" });
});

t.test("Ctrl-C ends the program with status 130 and a saved adapter", async (t) => {
  const out = join(root, "interrupted");
  const sizes = ["--batch-size", "2", "--sequence-length", "16", "--steps", "2000", "--json"];
  const args = ["train", "--data", trainFile, ...columns, ...sizes, "--out", out];
  const running = startTrifold(args, environment);
  // The first line of progress comes after a tenth of the steps.
  running.process.stderr?.on("data", (text: Buffer) => {
    if (text.includes("steps, loss")) running.process.kill("SIGINT");
  });
  const { status, stdout, stderr } = await running.finished;
  t.equal(status, 130, stderr);
  t.match(JSON.parse(stdout), { interrupted: true, adapter: out });
  t.equal((await loadAdapter(out)).lora.rank, 8);
});

t.test("perplexity of texts is the exponential of PyTorch's loss", async (t) => {
  const goldens = join(packageRoot(), "tests", "goldens", "gpt2");
  const model = await openBaseModel(goldens, { cacheFolder });
  const file = await readSafetensors(join(goldens, "lm-all-linear.safetensors"));
  const ids = await file.readTensor("input_ids");
  const names = [...file.tensors.keys()].filter((name) => name.startsWith("base_model."));
  const parameters = new Map<string, Float32Tensor>();
  for (const name of names) parameters.set(name, await file.readFloat32(name));
  const tokens = Array.from(ids.data, Number);
  const examples = [0, 12].map((start) => ({ tokens: tokens.slice(start, start + 12), label: -1 }));
  const engine = ortEngine({ threads: 1 });
  t.teardown(() => engine.close());
  const targets = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
  // Three rows a batch, so that one row is padding.
  const spec = {
    model,
    lora: { rank: 4, alpha: 4, targets },
    head: { kind: "lm" },
    batch: 3,
    sequence: 12,
  } as const;
  const score = await measurePerplexity(engine, spec, parameters, examples);
  const [expected] = (await file.readFloat32("expected.loss")).data;
  t.equal(score.tokens, 22);
  // Float32 of a mean near 6.
  t.ok(Math.abs(score.loss - (expected as number)) < 3e-6);
  t.equal(score.perplexity, Math.exp(score.loss));
});

t.test("a language model's adapter is scored by perplexity, without a label column", async (t) => {
  const model = await openBaseModel(embeddedModelFolder(), { cacheFolder });
  const adapter = join(root, "lm-adapter");
  const parameters = initialParameters(model.config, lora, { kind: "lm" }, 1);
  const baseModelName = "sotu-gpt2";
  await saveAdapter(adapter, { lora, head: { kind: "lm" }, parameters, baseModelName });
  const file = join(root, "texts.csv");
  const text = "The Congress of the United States shall have power to lay and collect taxes.";
  await writeFile(file, `text\n"${text}"\n"${text}"\n`);
  const score = await evaluateAdapter({ ...options(""), adapter, data: file, textColumn: "text" });
  const perplexity = "perplexity" in score ? score.perplexity : Number.NaN;
  // The untrained adapter changes nothing: 2,048 for a model that knows nothing, below 200 for this one on its subject.
  t.ok(perplexity < 200, `perplexity ${perplexity}`);
});

t.test(
  "an adapter without labels takes the sorted ones of the table, if they are as many",
  async (t) => {
    const named = join(root, "named");
    await trainAdapter(options(named, { steps: 10 }));
    const { labels: _, ...unnamed } = await loadAdapter(named);
    const adapter = join(root, "unnamed");
    await saveAdapter(adapter, unnamed);
    const table = { ...options(""), data: testFile };
    t.same(
      await evaluateAdapter({ ...table, adapter }),
      await evaluateAdapter({ ...table, adapter: named }),
    );
    const third = join(root, "third.csv");
    await writeFile(third, `${tableText(3, 3)}air,1,a bird\r\n`);
    const missing = { code: "DATA_LABELS_UNUSABLE", message: /3 different labels.*2 classes/ };
    await t.rejects(evaluateAdapter({ ...table, adapter, data: third }), missing);
    const unknown = { code: "DATA_LABEL_UNKNOWN", message: /third\.csv.*row 4/ };
    await t.rejects(evaluateAdapter({ ...table, adapter: named, data: third }), unknown);
  },
);

t.test("what cannot be trained is refused with a code, status 2 and no output", async (t) => {
  const one = join(root, "one.csv");
  await writeFile(one, "text,label\nhello there,a\nhello again,a\n");
  const cases: readonly (readonly [string, readonly string[], RegExp])[] = [
    ["absent file", ["--data", join(root, "absent.csv")], /error DATA_FILE_INVALID: .*absent\.csv/],
    ["no such column", ["--data", trainFile], /error DATA_COLUMN_MISSING: .*"text".*"topic"/],
    ["one label", ["--data", one], /error DATA_LABELS_UNUSABLE: .*one\.csv.*holds 1 /],
    [
      "too long",
      ["--data", one, "--sequence-length", "4000"],
      /error OPTION_INVALID: .*at most 128/,
    ],
    ["no model", ["--data", one, "--model", root], /error MODEL_FOLDER_INVALID: .*config\.json/],
    ["no rate", ["--data", one, "--learning-rate", "0"], /error USAGE_INVALID: .*above 0/],
    ["all held out", ["--data", one, "--hold-out", "1"], /error USAGE_INVALID: .*below 1/],
  ];
  for (const [title, args, text] of cases) {
    const { status, stdout, stderr } = await runTrifold(["train", ...args, "--json"], environment);
    t.equal(status, 2, title);
    t.equal(stdout, "", title);
    t.match(stderr, text, title);
    t.match(stderr, /hint: /, title);
  }
  const targets = { lora: { ...lora, targets: ["q_proj"] } };
  const unknown = { code: "ADAPTER_INVALID", hint: /c_attn/ };
  await t.rejects(trainAdapter(options(root, targets)), unknown);
});

t.test("progress tells rate and time left, and keeps logs short", async (t) => {
  const state = { done: 50, before: 0, total: 200, loss: 0.4321, seconds: 20, tokens: 800 };
  t.equal(
    progressText(state),
    "[######..................] 50/200 steps, loss 0.432, 40 tokens/s, 1:00 left",
  );
  // Thirty of the fifty steps were made before the clock started.
  t.match(progressText({ ...state, before: 30 }), /2:30 left/);
  const stream = new PassThrough();
  let clock = 0;
  const progress = createProgress({
    total: 100,
    stream: stream as unknown as NodeJS.WriteStream,
    now: () => clock,
  });
  for (let step = 1; step <= 100; step++) {
    clock += 10;
    progress.update(step, { loss: 1, tokens: step });
  }
  progress.close();
  stream.end();
  const lines = (await stream.toArray()).join("").trim().split("\n");
  t.equal(lines.length, 10);
  t.match(lines[9], /100\/100 steps, loss 1\.000, 100 tokens\/s, 0:00 left/);
});

t.test("the largest class is what guessing would reach", (t) => {
  t.equal(majorityShare([0, 1, 1, 1]), 0.75);
  t.equal(majorityShare([]), 0);
  t.end();
});
