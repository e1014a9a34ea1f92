// The measuring processes of suite `engine`: each configuration has one of its own, so that neither memory
// nor a warm cache of one shows in another. Run as a program, it answers one question in JSON.
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import {
  type Engine,
  type Float32Tensor,
  float32,
  type Gpt2Config,
  graphFlops,
  type HeadSettings,
  initialParameters,
  int64,
  type LoraSettings,
  type ModelSpec,
  openBaseModel,
  ortEngine,
  type Parameters,
  randomStream,
  type Session,
  saveModelFolder,
  stepGraph,
  type Tensor,
  type TensorBundle,
  tensorShapes,
} from "../runtime/index.ts";
import type { EngineTimes } from "./engine.ts";

/** What is asked, and in which folder the weights are. */
interface Questions {
  readonly weights: { readonly kind: "weights"; readonly folder: string };
  readonly time: { readonly kind: "time"; readonly folder: string; readonly head: HeadName };
  readonly memory: { readonly kind: "memory"; readonly folder: string; readonly head: HeadName };
}

interface Answers {
  readonly weights: Record<never, never>;
  readonly time: EngineTimes;
  readonly memory: { readonly peakBytes: number };
}

type Kind = keyof Questions;
type HeadName = "lm" | "classification";

/** Answers a question in a new process. */
export async function runProbe<K extends Kind>(question: Questions[K] & { readonly kind: K }) {
  const program = fileURLToPath(import.meta.url);
  const { stdout } = await promisify(execFile)(process.execPath, [
    program,
    JSON.stringify(question),
  ]);
  return JSON.parse(stdout) as Answers[K];
}

const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 50_257,
  positions: 1024,
  hiddenSize: 768,
  layers: 12,
  heads: 12,
  innerSize: 3072,
  layerNormEpsilon: 1e-5,
  padTokenId: 50_256,
};
const lora: LoraSettings = { rank: 8, alpha: 16, targets: ["c_attn"] };
const heads: Readonly<Record<HeadName, HeadSettings>> = {
  lm: { kind: "lm" },
  classification: { kind: "classification", classes: 77 },
};
const batch = 4;
const sequence = 64;
const threads = 2;
const warmUps = 3;
const repeats = 15;

const probes: { readonly [K in Kind]: (question: Questions[K]) => Promise<Answers[K]> } = {
  weights: async ({ folder }) => {
    await saveModelFolder(join(folder, "model"), config, randomWeights());
    await openModel(folder);
    return {};
  },
  time: async ({ folder, head }) => {
    const engine = ortEngine({ threads });
    const { spec, feeds } = await prepare(folder, head);
    const loss = await loadRun(engine, spec, feeds, false);
    const startMs = performance.now();
    const step = await loadRun(engine, spec, feeds, true);
    const loadMs = performance.now() - startMs;
    for (let i = 0; i < warmUps; i++) {
      await loss.run();
      await step.run();
    }
    const lossMs: number[] = [];
    const stepMs: number[] = [];
    for (let i = 0; i < repeats; i++) {
      lossMs.push(await timed(loss.run));
      stepMs.push(await timed(step.run));
    }
    await engine.close();
    return { loadMs, lossMs, stepMs, stepFlops: step.flops, tokens: batch * sequence };
  },
  memory: async ({ folder, head }) => {
    const engine = ortEngine({ threads });
    const { spec, feeds } = await prepare(folder, head);
    const step = await loadRun(engine, spec, feeds, true);
    for (let i = 0; i < warmUps; i++) await step.run();
    const peakBytes = await peakResidentBytes();
    await engine.close();
    return { peakBytes };
  },
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const question = JSON.parse(process.argv[2] ?? "") as Questions[Kind];
  // The tag chooses the probe; the union cannot express that they match.
  const probe = probes[question.kind] as (question: Questions[Kind]) => Promise<unknown>;
  process.stdout.write(JSON.stringify(await probe(question)));
}

/** Normal numbers of GPT-2's deviation from one block read again and again: drawing 124 million would take a minute. */
function randomWeights(): TensorBundle<Float32Tensor> {
  const random = randomStream("bench weights");
  const block = Float32Array.from({ length: 2 ** 18 }, () => 0.02 * random.normal());
  const tensors = new Map<string, Float32Tensor>();
  for (const [name, shape] of tensorShapes(config)) {
    const { data } = float32(shape);
    for (let start = 0; start < data.length; start += block.length) {
      data.set(block.subarray(0, data.length - start), start);
    }
    tensors.set(name, { dtype: "float32", shape, data });
  }
  return tensors;
}

function openModel(folder: string) {
  return openBaseModel(join(folder, "model"), { cacheFolder: join(folder, "cache") });
}

async function prepare(folder: string, headName: HeadName) {
  const head = heads[headName];
  const model = await openModel(folder);
  const spec: ModelSpec = { model, lora, head, batch, sequence };
  const parameters = initialParameters(config, lora, head, 1);
  return { spec, feeds: batchFeeds(head, parameters) };
}

function batchFeeds(head: HeadSettings, parameters: Parameters): TensorBundle {
  const random = randomStream("bench tokens");
  const tokens = batch * sequence;
  const rows = head.kind === "lm" ? tokens : batch;
  const ids = Array.from({ length: tokens }, () => random.below(config.vocabSize));
  const pooling = float32([batch, sequence]);
  for (let row = 0; row < batch; row++) pooling.data[(row + 1) * sequence - 1] = 1;
  return new Map<string, Tensor>([
    ...parameters,
    ["input_ids", int64([batch, sequence], ids)],
    ["attention_mask", int64([batch, sequence], new BigInt64Array(tokens).fill(1n))],
    ["pooling", pooling],
    ["labels", int64([rows], head.kind === "lm" ? ids : ids.slice(0, batch).map((id) => id % 77))],
    ["weights", float32([rows], new Float32Array(rows).fill(1 / rows))],
  ]);
}

async function loadRun(
  engine: Engine,
  spec: ModelSpec,
  feeds: TensorBundle,
  wantsGradients: boolean,
) {
  const { graph, loss = "", gradients } = stepGraph(spec, { wantsGradients });
  const session: Session = await engine.load(graph);
  const fed = new Map(graph.inputs.map(({ name }) => [name, feeds.get(name) as Tensor] as const));
  const outputs = [loss, ...gradients.values()];
  return { flops: graphFlops(graph), run: () => session.run(fed, outputs) };
}

async function timed(run: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await run();
  return performance.now() - startMs;
}

/** The kernel's high-water mark since this program started; getrusage's would include what the parent had. */
async function peakResidentBytes(): Promise<number> {
  const status = await readFile("/proc/self/status", "utf8").catch(() => "");
  const kibibytes = /^VmHWM:\s+(\d+) kB/m.exec(status)?.[1];
  return 1024 * Number(kibibytes ?? process.resourceUsage().maxRSS);
}
