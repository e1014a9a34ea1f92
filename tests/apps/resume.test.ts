// Trainings that end early and go on, and those that learn the next token.
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import { evaluateAdapter } from "../../apps/train/evaluation.ts";
import type { TrainingOptions } from "../../apps/train/options.ts";
import { trainAdapter } from "../../apps/train/training.ts";
import { loadAdapter, randomStream } from "../../runtime/index.ts";
import { runTrifold, startTrifold } from "./program.ts";

const root = t.testdir();
const cacheFolder = join(root, "cache");
const environment = { TRIFOLD_CACHE: cacheFolder };
const data = join(root, "train.csv");
const random = randomStream("resume");
const nouns = { sea: ["whale", "ship", "sail"], land: ["farm", "tax", "law"] };
// Of very different lengths, so that batches run on two graphs.
const rows = Array.from({ length: 60 }, () => {
  const topic = random.below(2) === 0 ? "sea" : "land";
  const words = Array.from({ length: 2 + random.below(30) }, () => nouns[topic][random.below(3)]);
  return `${words.join(" and ")},${topic}`;
});
await writeFile(data, `text,label\n${rows.join("\n")}\n`);

function options(out: string, more: Partial<TrainingOptions> = {}): TrainingOptions {
  return {
    model: embeddedModelFolder(),
    data,
    textColumn: "text",
    labelColumn: "label",
    head: "classification",
    lora: { rank: 2, alpha: 4, targets: ["c_attn"], dropout: 0.1 },
    optimizer: "adamw",
    weightDecay: 0.01,
    steps: 7,
    epochs: 1,
    batchSize: 4,
    accumulate: 2,
    sequenceLength: 48,
    learningRate: 3e-3,
    warmUp: 2,
    schedule: "cosine",
    labelSmoothing: 0.1,
    maxGradientNorm: 1,
    seed: 1,
    holdOutFraction: 0.2,
    out: join(root, out),
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

const checkpointOf = (out: string) => join(root, out, "checkpoint", "state.safetensors");
const weightsOf = (out: string) => readFile(join(root, out, "adapter_model.safetensors"));

/** A training that is aborted when step `at` is done or, with `later`, while the next one runs. */
function interrupted(out: string, at: number, more: Partial<TrainingOptions> = {}, later = false) {
  const controller = new AbortController();
  const abort = () => controller.abort(new Error("enough"));
  const onStart: TrainingOptions["onStart"] =
    () =>
    ({ step }) => {
      if (step === at) later ? setImmediate(abort) : abort();
    };
  return trainAdapter(options(out, { ...more, signal: controller.signal, onStart }));
}

const kinds: readonly (readonly [string, Partial<TrainingOptions>])[] = [
  ["adamw", {}],
  ["sgd", { optimizer: "sgd", learningRate: 0.1 }],
  ["lm", { head: "lm", accumulate: 1 }],
];
for (const [name, more] of kinds) {
  t.test(`${name}: a training that is interrupted and resumed is one that was not`, async (t) => {
    const whole = await trainAdapter(options(`${name}-whole`, more));
    t.equal(existsSync(checkpointOf(`${name}-whole`)), false, "a finished training leaves none");
    const out = `${name}-resumed`;
    const first = await interrupted(out, 3, more);
    t.match(first, { steps: 3, interrupted: true });
    t.ok(existsSync(checkpointOf(out)));
    const second = await interrupted(out, 5, { ...more, resume: true }, true);
    t.ok(second.interrupted && second.steps >= 5, `${second.steps} steps`);
    const seen: number[] = [];
    const last = await trainAdapter(
      options(out, {
        ...more,
        resume: true,
        onStart: ({ steps, firstStep }) => {
          seen.push(steps, firstStep);
          return ({ step }) => seen.push(step);
        },
      }),
    );
    t.same(seen.slice(0, 3), [7, second.steps, second.steps + 1]);
    t.ok((await weightsOf(out)).equals(await weightsOf(`${name}-whole`)), "equal to the last byte");
    const { seconds: _, adapter: __, ...expected } = whole;
    t.match(last, expected, "loss, scores, FLOPs and padding are those of the whole");
    t.equal(existsSync(checkpointOf(out)), false);
    await t.rejects(trainAdapter(options(out, { ...more, resume: true })), {
      code: "CHECKPOINT_MISSING",
      message: /checkpoint.state\.safetensors/,
    });
  });
}

t.test("other settings, data or another model are refused by the option's name", async (t) => {
  await interrupted("changed", 2);
  const otherData = join(root, "other.csv");
  await writeFile(otherData, `text,label\n${rows.slice(1).join("\n")}\n`);
  const lora = { rank: 2, alpha: 4, targets: ["c_attn"], dropout: 0.1 };
  const changes: readonly (readonly [Partial<TrainingOptions>, RegExp])[] = [
    [{ learningRate: 1e-3 }, /--learning-rate 0\.003 \(now 0\.001\)$/],
    [{ lora: { ...lora, layers: [0] } }, /--layers "all" \(now \[0\]\)$/],
    [{ lora: { ...lora, dropout: 0 } }, /--dropout 0\.1 \(now 0\)$/],
    [{ optimizer: "sgd", seed: 2 }, /--optimizer "adamw" \(now "sgd"\), --seed 1 \(now 2\)$/],
    [{ data: otherData }, /--data "\w{16}" \(now "\w{16}"\)$/],
    [{ steps: 8 }, /--steps 7 \(now 8\)$/],
    [{ threads: 2 }, /--threads 1 \(now 2\)$/],
  ];
  const before = await readFile(checkpointOf("changed"));
  for (const [change, message] of changes) {
    const resumed = trainAdapter(options("changed", { ...change, resume: true }));
    await t.rejects(resumed, { code: "CHECKPOINT_MISMATCH", message });
  }
  t.ok((await readFile(checkpointOf("changed"))).equals(before), "it is still there");
  const notes: string[] = [];
  await trainAdapter(options("changed", { log: (text) => notes.push(text) }));
  t.match(notes.join("\n"), /holds an unfinished training.*--resume/);
  await mkdir(join(root, "changed", "checkpoint"), { recursive: true });
  await writeFile(checkpointOf("changed"), before.subarray(0, -1));
  const broken = trainAdapter(options("changed", { resume: true }));
  await t.rejects(broken, { code: "CHECKPOINT_INVALID", message: /state\.safetensors/ });
});

t.test("a program that was killed goes on from its last checkpoint", async (t) => {
  const sizes = ["--batch-size", "2", "--sequence-length", "48", "--steps", "40", "--threads", "1"];
  const args = (out: string) => ["train", "--data", data, ...sizes, "--out", join(root, out)];
  const whole = await runTrifold([...args("unkilled"), "--json"], environment);
  t.equal(whole.status, 0, whole.stderr);
  const running = startTrifold([...args("killed"), "--checkpoint-every", "2"], environment);
  // The first line of progress comes after a tenth of the steps.
  await running.said(/4\/40 steps, loss/);
  running.process.kill("SIGKILL");
  t.equal((await running.finished).status, null);
  t.ok(existsSync(checkpointOf("killed")));
  const resumed = await runTrifold([...args("killed"), "--resume", "--json"], environment);
  t.equal(resumed.status, 0, resumed.stderr);
  t.match(resumed.stderr, /goes on behind step \d+/);
  t.ok((await weightsOf("killed")).equals(await weightsOf("unkilled")));
  t.equal(JSON.parse(resumed.stdout).loss, JSON.parse(whole.stdout).loss);
  const again = await runTrifold([...args("killed"), "--resume"], environment);
  t.equal(again.status, 2);
  t.match(again.stderr, /error CHECKPOINT_MISSING: .*\nhint: /);
});

t.test("SIGTERM leaves an adapter and a checkpoint that goes on", async (t) => {
  const sizes = ["--batch-size", "2", "--sequence-length", "16", "--steps", "2000", "--json"];
  const args = ["train", "--data", data, ...sizes, "--out", join(root, "stopped")];
  const running = startTrifold(args, environment);
  await running.said(/steps, loss/);
  running.process.kill("SIGTERM");
  const { status, stdout, stderr } = await running.finished;
  t.equal(status, 130, stderr);
  const report = JSON.parse(stdout) as { steps: number; interrupted: boolean };
  t.ok(report.interrupted && report.steps >= 200);
  await loadAdapter(join(root, "stopped"));
  const other = await runTrifold([...args, "--resume", "--schedule", "constant"], environment);
  t.equal(other.status, 2);
  t.match(other.stderr, /error CHECKPOINT_MISMATCH: .*--schedule "linear" \(now "constant"\)/);
});

t.test("a language model learns its texts, and needs no labels", async (t) => {
  const texts = join(root, "texts.csv");
  const lines = rows.map((row) => row.split(",")[0]);
  await writeFile(texts, `words\n${lines.join("\n")}\n`);
  const more = { data: texts, textColumn: "words", head: "lm", labelSmoothing: 0 } as const;
  const report = await trainAdapter(
    options("language", { ...more, steps: 40, learningRate: 1e-2, accumulate: 1 }),
  );
  const score = async (adapter: { readonly adapter?: string }) => {
    const found = await evaluateAdapter({ ...options("", more), ...adapter });
    return "perplexity" in found ? found : undefined;
  };
  const bare = await score({});
  const trained = await score({ adapter: join(root, "language") });
  t.equal(bare?.tokens, trained?.tokens);
  // Six nouns and "and" remain to be told apart: hundreds without training, near 3 with it.
  t.ok((bare?.perplexity ?? 0) > 50, `bare ${bare?.perplexity}`);
  t.ok((trained?.perplexity ?? 99) < 10, `trained ${trained?.perplexity}`);
  t.ok((report.perplexity ?? 99) < 10, `hold-out ${report.perplexity}`);
  t.same(report.labels, []);
  const adapter = await loadAdapter(join(root, "language"));
  t.match(adapter, { head: { kind: "lm" }, lora: { dropout: 0.1 } });
  t.ok(report.padding.bucketed < report.padding.plain, JSON.stringify(report.padding));
  await writeFile(texts, "words\na\n");
  const short = trainAdapter(options("short", { ...more, holdOutFraction: 0 }));
  await t.rejects(short, { code: "DATA_TEXTS_TOO_SHORT", message: /texts\.csv/ });
});
