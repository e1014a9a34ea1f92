// A program that is told to stop while native code computes: it saves what it has and does not wait.
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import { type Gpt2Config, loadAdapter, randomGpt2, saveModelFolder } from "../../runtime/index.ts";
import { startTrifold } from "./program.ts";

const root = t.testdir();

t.test("SIGTERM in the middle of a step saves the steps before it and ends at once", async (t) => {
  const model = join(root, "model");
  // 25 million weights and 2,048 tokens: 0.2 TFLOP a step, seconds on one thread.
  const config: Gpt2Config = {
    family: "gpt2",
    vocabSize: 2048,
    positions: 128,
    hiddenSize: 1024,
    layers: 2,
    heads: 8,
    innerSize: 4096,
    layerNormEpsilon: 1e-5,
    padTokenId: 0,
  };
  await saveModelFolder(model, config, randomGpt2(config, 1));
  await copyFile(join(embeddedModelFolder(), "tokenizer.json"), join(model, "tokenizer.json"));
  const data = join(root, "data.csv");
  await writeFile(data, "text,label\nthe ship,sea\nthe farm,land\n");
  const out = join(root, "adapter");
  const sizes = ["--batch-size", "16", "--sequence-length", "128", "--threads", "1"];
  const args = ["train", "--model", model, "--data", data, "--hold-out", "0", ...sizes];
  const running = startTrifold([...args, "--steps", "10", "--out", out, "--json"], {
    TRIFOLD_CACHE: join(root, "cache"),
  });
  await running.said(/1\/10 steps/);
  running.process.kill("SIGTERM");
  const { status, stdout, stderr } = await running.finished;
  // A program that lets the second step end has a status of its own; the signal's death means that it did not.
  t.same({ status, signal: running.process.signalCode }, { status: null, signal: "SIGTERM" });
  t.notMatch(stderr, /2\/10 steps/);
  t.match(JSON.parse(stdout), { interrupted: true, steps: 1, adapter: out });
  t.same((await loadAdapter(out)).labels, ["land", "sea"]);
});
