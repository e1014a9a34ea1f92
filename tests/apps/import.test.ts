// `trifold import`: what it makes, what every command does with it, and that it leaves nothing behind when it fails.
import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";
import { interruption } from "../../apps/failure.ts";
import { importFolder } from "../../apps/import/importing.ts";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import {
  type LlamaConfig,
  loadAdapter,
  openBaseModel,
  randomTensors,
  saveModelFolder,
  type WeightsProgress,
} from "../../runtime/index.ts";
import { runTrifold } from "./program.ts";
import { smallTexts, tableOf } from "./small-federation.ts";

const root = t.testdir();
const cacheFolder = join(root, "cache");
const environment = { TRIFOLD_CACHE: cacheFolder };
const quiet = { signal: new AbortController().signal, onProgress: () => {} };
const embedded = embeddedModelFolder();

/** A Llama with the vocabulary of the embedded model's tokenizer. */
const config: LlamaConfig = {
  family: "llama",
  vocabSize: 2048,
  positions: 64,
  hiddenSize: 32,
  layers: 2,
  heads: 4,
  keyValueHeads: 2,
  headSize: 8,
  innerSize: 48,
  rmsNormEpsilon: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  attentionBias: true,
  outputBias: false,
  feedForwardBias: false,
  queryKeyNorm: false,
  tiedEmbedding: true,
  padTokenId: 0,
};
const llama = join(root, "small-llama");
await saveModelFolder(llama, config, randomTensors(config, 1));
cpSync(join(embedded, "tokenizer.json"), join(llama, "tokenizer.json"));

t.test("the program says what it imported, and progress goes to standard error", async (t) => {
  const out = join(root, "gpt2");
  const { status, stdout, stderr } = await runTrifold(["import", embedded, "--out", out, "--json"]);
  t.equal(status, 0, stderr);
  t.match(stderr, /\[#{24}\] 52\/52 tensors, 4\.\d+ MB of 4\.\d+ MB/);
  const report = JSON.parse(stdout);
  const { sha256 } = await openBaseModel(embedded, { cacheFolder });
  // 2048 and 128 rows of 128, four layers of 198,272 and the last norm.
  t.match(report, { family: "gpt2", parameters: 1_071_872, sha256, out });
  t.same(readdirSync(out).sort(), [
    ...["config.json", "index.json", "tokenizer.json", "tokenizer_config.json", "weights.f32"],
  ]);
});

t.test("without --out the folder is named after the model", async (t) => {
  process.chdir(root);
  const { out } = await importFolder({ folder: llama, ...quiet });
  t.equal(out, join(process.cwd(), "small-llama-trifold"));
  t.ok(existsSync(join(out, "weights.f32")));
});

t.test("train and evaluate take an imported Llama as it lies there", async (t) => {
  const model = join(root, "imported-llama");
  await importFolder({ folder: llama, out: model, ...quiet });
  const data = join(root, "texts.csv");
  writeFileSync(data, tableOf(smallTexts("import", 20)));
  const cache = join(root, "unused-cache");
  const adapter = join(root, "adapter");
  const flags = ["--model", model, "--data", data, "--threads", "1", "--json"];
  const settings = ["--targets", "q_proj,v_proj", "--steps", "3", "--out", adapter];
  const trained = await runTrifold(["train", ...flags, ...settings], { TRIFOLD_CACHE: cache });
  t.equal(trained.status, 0, trained.stderr);
  const { parameters } = await loadAdapter(adapter);
  t.ok(parameters.has("base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"));
  const again = await runTrifold(["evaluate", ...flags, "--adapter", adapter], {
    TRIFOLD_CACHE: cache,
  });
  t.equal(again.status, 0, again.stderr);
  t.match(JSON.parse(again.stdout), { accuracy: Number });
  t.notOk(existsSync(cache), "nothing is copied into the cache");
});

t.test("an interrupted import leaves nothing behind", async (t) => {
  const place = join(root, "interrupted");
  mkdirSync(place);
  const controller = new AbortController();
  const seen: WeightsProgress[] = [];
  const importing = importFolder({
    folder: llama,
    out: join(place, "model"),
    signal: controller.signal,
    onProgress: (progress) => {
      seen.push(progress);
      if (progress.tensors === 3) controller.abort(interruption());
    },
  });
  await t.rejects(importing, { message: "interrupted" });
  t.equal(seen.at(-1)?.tensors, 3, "it stopped there");
  t.same(readdirSync(place), []);
});

const noLimit = process.platform === "win32" ? "no ulimit on Windows" : false;
t.test(
  "a disk that takes no more is an error that names the tensor",
  { skip: noLimit },
  async (t) => {
    const place = join(root, "full");
    mkdirSync(place);
    const program = fileURLToPath(new URL("../../apps/cli.js", import.meta.url));
    // A limit of 64 blocks of 512 or 1024 bytes stands for the end of the disk: write(2) gives EFBIG in place of ENOSPC.
    // What tap adds to every process it sees would write files of its own.
    const command = 'unset NODE_OPTIONS; ulimit -f 64 && exec "$0" "$@"';
    const args = [program, "import", llama, "--out", join(place, "model")];
    const run = promisify(execFile)("sh", ["-c", command, process.execPath, ...args]);
    const failed = await run.then(
      () => ({ code: 0, stderr: "" }),
      (error: { readonly code: number; readonly stderr: string }) => error,
    );
    t.equal(failed.code, 1);
    t.match(
      failed.stderr,
      /error WEIGHTS_WRITE_FAILED: .*weights\.f32: tensor embed_tokens\.weight/,
    );
    t.match(failed.stderr, /caused by: EFBIG.*\nhint: /);
    t.same(readdirSync(place), []);
  },
);

t.test("what cannot be imported is refused before anything is written", async (t) => {
  const place = join(root, "refused");
  mkdirSync(join(place, "full"), { recursive: true });
  writeFileSync(join(place, "full", "keep"), "");
  writeFileSync(join(place, "file"), "");
  const without = join(root, "no-tokenizer");
  cpSync(llama, without, { recursive: true });
  rmSync(join(without, "tokenizer.json"));
  const small = join(root, "small-vocabulary");
  await saveModelFolder(
    small,
    { ...config, vocabSize: 9 },
    randomTensors({ ...config, vocabSize: 9 }, 1),
  );
  cpSync(join(embedded, "tokenizer.json"), join(small, "tokenizer.json"));
  const cases: readonly (readonly [args: readonly string[], text: RegExp])[] = [
    [
      [llama, "--out", join(place, "full")],
      /^error MODEL_OUT_EXISTS: .*full is there already\nhint: /,
    ],
    [[llama, "--out", join(place, "file")], /^error MODEL_OUT_EXISTS: .*file/],
    [[join(root, "absent")], /^error MODEL_FOLDER_INVALID: .*absent.*config\.json/],
    [[without, "--out", join(place, "a")], /^error TOKENIZER_INVALID: .*tokenizer\.json/],
    [[small, "--out", join(place, "b")], /^error MODEL_TOKENIZER_MISMATCH: .*2048 tokens.* 9 /],
    [[], /^error USAGE_INVALID: missing required argument 'folder'/],
  ];
  for (const [args, text] of cases) {
    const { status, stdout, stderr } = await runTrifold(["import", ...args], environment);
    t.equal(status, 2, args.join(" "));
    t.equal(stdout, "");
    t.match(stderr, text);
    t.notMatch(stderr, /\n\s+at /);
  }
  t.same(readdirSync(place).sort(), ["file", "full"]);
  t.same(readdirSync(join(place, "full")), ["keep"]);
});
