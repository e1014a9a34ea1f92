// The ways to execute a model: quantised layers must train like a model that holds the rounded weights, and block by
// block must give what the whole graph gives.
import { open, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import t, { type Test } from "tap";
import {
  type BaseModel,
  baseModelFromTensors,
  executionModes,
  type Float32Tensor,
  type Gpt2Config,
  type HeadSettings,
  initialParameters,
  int64,
  type LlamaConfig,
  type LoraSettings,
  loadPredictor,
  loadStep,
  type ModelSpec,
  makeBatch,
  ortEngine,
  type Parameters,
  planMemory,
  type QuantisedFormat,
  quantiseModel,
  randomStream,
  randomTensors,
  readBaseModelTensors,
  referenceEngine,
  sketchInMode,
  specInMode,
  type Tensor,
  type TensorBundle,
  workloadFlops,
} from "../../runtime/index.ts";
import { linearModules, tensorShapes } from "../../runtime/models/families.ts";

const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 97,
  positions: 64,
  hiddenSize: 48,
  layers: 4,
  heads: 4,
  innerSize: 160,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};
const cacheFolder = t.testdir();
const engine = ortEngine({ threads: 2 });
const reference = referenceEngine();
t.teardown(() => engine.close());
// Weights ten times as large as before training: attention is not uniform and no non-linearity nearly linear.
const drawn = [...randomTensors(config, 1)].map(([name, tensor]) => {
  return [name, name.includes("ln_") ? tensor : scaled(tensor, 10)] as const;
});
const model = await baseModelFromTensors(config, new Map(drawn), { cacheFolder });
const [batch, sequence] = [3, 7];
/** Grouped queries, biases, a head of its own; sizes that make blocks of 8 and 4 rows. */
const llama: LlamaConfig = {
  family: "llama",
  vocabSize: 97,
  positions: 64,
  hiddenSize: 40,
  layers: 3,
  heads: 6,
  keyValueHeads: 2,
  headSize: 8,
  innerSize: 108,
  rmsNormEpsilon: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  attentionBias: true,
  outputBias: false,
  feedForwardBias: false,
  queryKeyNorm: true,
  tiedEmbedding: false,
  padTokenId: 0,
};
const llamaModel = await baseModelFromTensors(
  llama,
  new Map(
    [...randomTensors(llama, 1)].map(([name, tensor]) => [
      name,
      name.includes("norm") ? tensor : scaled(tensor, 10),
    ]),
  ),
  { cacheFolder },
);
const lora: LoraSettings = { rank: 4, alpha: 8, targets: ["c_attn", "mlp.c_fc"] };
const heads: readonly HeadSettings[] = [{ kind: "classification", classes: 5 }, { kind: "lm" }];

const subjects: readonly (readonly [BaseModel, LoraSettings])[] = [
  [model, lora],
  [llamaModel, { ...lora, targets: ["q_proj", "v_proj", "mlp.up_proj"] }],
];

for (const [original, settings] of subjects) {
  const { family } = original.config;
  for (const head of heads) {
    t.test(
      `block by block a ${family} ${head.kind} step gives the bits of the whole graph`,
      async (t) => {
        for (const base of [original, await quantiseModel(original, "int8")]) {
          const spec: ModelSpec = { model: base, lora: settings, head, batch, sequence };
          const [whole, blocks] = await bothSteps(spec);
          t.equal(blocks.loss, whole.loss);
          t.same(differing(blocks.gradients, whole.gradients), []);
          const [a, b] = await Promise.all([
            predict(spec),
            predict({ ...spec, execution: "blocks" }),
          ]);
          t.same(b.data, a.data, "logits");
        }
      },
    );

    for (const format of ["int8", "int4"] as const) {
      const spec: ModelSpec = { model: original, lora: settings, head, batch, sequence };
      t.test(
        `with ${format} layers a ${family} ${head.kind} step trains what the rounded weights say`,
        (t) => comparesWithRounded(t, spec, format),
      );
    }
  }
}

t.test(
  "block by block, dropout masks fall on the layers that they fall on in the whole graph",
  async (t) => {
    const dropping: LoraSettings = { ...lora, dropout: 0.4 };
    const spec: ModelSpec = {
      model,
      lora: dropping,
      head: heads[0] as HeadSettings,
      batch,
      sequence,
    };
    const [whole, blocks] = await bothSteps(spec);
    t.equal(blocks.loss, whole.loss);
    t.same(differing(blocks.gradients, whole.gradients), []);
    const [plain] = await bothSteps({ ...spec, lora });
    t.not(plain.loss, whole.loss, "something is dropped");
  },
);

t.test("adapters in some blocks only: the backward pass ends below the lowest", async (t) => {
  const upper: LoraSettings = { ...lora, targets: ["h.2.attn.c_attn", "h.3.mlp.c_proj"] };
  const spec: ModelSpec = { model, lora: upper, head: heads[0] as HeadSettings, batch, sequence };
  const [whole, blocks] = await bothSteps(spec);
  t.equal(whole.gradients.size, 5);
  t.same(differing(blocks.gradients, whole.gradients), []);
});

t.test("a tail that is computed block by block gives the whole tail's cut gradient", async (t) => {
  const spec: ModelSpec = { model, lora, head: heads[0] as HeadSettings, batch, sequence };
  const random = randomStream("activations");
  const activations: Float32Tensor = {
    dtype: "float32",
    shape: [batch * sequence, config.hiddenSize],
    data: Float32Array.from({ length: batch * sequence * config.hiddenSize }, random.normal),
  };
  const feeds = new Map<string, Tensor>([...feedsFor(spec.head), ["activations", activations]]);
  const run = async (part: ModelSpec) => {
    const step = await loadStep(engine, part, { from: 2 });
    const result = await step.run(parametersOf(part), feeds);
    await step.close();
    return result;
  };
  const [whole, blocks] = [await run(spec), await run({ ...spec, execution: "blocks" })];
  t.same(blocks.cutGradient?.data, whole.cutGradient?.data);
  t.same(differing(blocks.gradients, whole.gradients), []);
});

t.test("a budget takes the first mode that fits, and one too small names them all", async (t) => {
  const spec: ModelSpec = { model, lora, head: heads[0] as HeadSettings, batch: 16, sequence: 64 };
  const workloads = [{ kind: "step" }] as const;
  const { mode, estimates } = planMemory(spec, workloads);
  t.equal(mode, "whole-float32", "no budget, no need");
  t.same(
    estimates.map((estimate) => estimate.mode),
    executionModes,
  );
  for (const estimate of estimates) {
    const before = estimates.slice(0, estimates.indexOf(estimate));
    const isFirst = before.every(({ bytes }) => bytes > estimate.bytes);
    if (!isFirst || estimate.mode === "whole-int4") continue;
    t.equal(planMemory(spec, workloads, { budgetBytes: estimate.bytes }).mode, estimate.mode);
  }
  t.throws(() => planMemory(spec, workloads, { budgetBytes: 1e6 }), {
    code: "MEMORY_BUDGET_TOO_SMALL",
    message: /fits 1 MB: whole-float32 \d+ MB, .*whole-int4 \d+ MB/,
  });
});

t.test("each mode trains as it says", async (t) => {
  const spec: ModelSpec = { model, lora, head: heads[0] as HeadSettings, batch, sequence };
  const losses = new Map<string, number>();
  for (const mode of executionModes) {
    const step = await loadStep(engine, await specInMode(spec, mode));
    losses.set(mode, (await step.run(parametersOf(spec), feedsFor(spec.head))).loss);
    t.equal(step.flops, workloadFlops(sketchInMode(spec, mode), { kind: "step" }), mode);
    await step.close();
  }
  t.equal(losses.get("blocks-float32"), losses.get("whole-float32"));
  t.equal(losses.get("blocks-int8"), losses.get("whole-int8"));
  t.equal(new Set(losses.values()).size, 3, "three formats, three losses");
});

t.test(
  "a quantised weight is its column's scale times a whole number, off by half a step",
  async (t) => {
    for (const [format, largest] of [
      ["int8", 127],
      ["int4", 7],
    ] as const) {
      const rounded = await roundedTensors(await quantiseModel(model, format));
      const original = await readBaseModelTensors(model);
      const name = "h.1.mlp.c_fc.weight";
      const [exact, actual] = [original.get(name), rounded.get(name)];
      const columns = config.innerSize;
      const rows = 16; // 48 rows fall into blocks of 16.
      let worst = 0;
      for (let column = 0; column < columns; column++) {
        const at = Array.from({ length: rows }, (_, row) => row * columns + column);
        const step = Math.max(...at.map((i) => Math.abs(exact?.data[i] ?? 0))) / largest;
        for (const i of at) {
          worst = Math.max(worst, Math.abs((exact?.data[i] ?? 0) - (actual?.data[i] ?? 0)) / step);
        }
      }
      // Half a step, and the rounding of the scale to float32 times up to 127 steps.
      t.ok(worst <= 0.5 + 127 * 2 ** -23, `${format}: off by ${worst} steps`);
      t.ok(worst > 0.4, `${format}: rounds at all`);
    }
  },
);

t.test("a quantised file that is cut off or belongs to nothing known is made again", async (t) => {
  const { quantised } = await quantiseModel(model, "int8");
  const file = quantised?.file ?? "";
  const sound = await readFile(file);
  await truncate(file, 100);
  await quantiseModel(model, "int8");
  t.ok(sound.equals(await readFile(file)), "cut off");
  const damaged = await open(file, "r+");
  await damaged.write(new Uint8Array(64).fill(1), 0, 64, 0);
  await damaged.close();
  await writeFile(join(dirname(file), "weights.int8.json"), "{");
  await quantiseModel(model, "int8");
  t.ok(sound.equals(await readFile(file)), "no index that can be read");
  t.same(
    (await readdir(dirname(file))).filter((name) => name.endsWith(".new")),
    [],
  );
});

/** Loss and gradients on ONNX Runtime with quantised layers against the reference with the rounded weights. */
async function comparesWithRounded(t: Test, plain: ModelSpec, format: QuantisedFormat) {
  const { model: original, head } = plain;
  const quantised = await quantiseModel(original, format);
  const spec: ModelSpec = { ...plain, model: quantised };
  const parameters = parametersOf(spec);
  const actual = await loadStep(engine, spec);
  const { loss, gradients } = await actual.run(parameters, feedsFor(head));
  const folder = t.testdir();
  const rounded = await baseModelFromTensors(original.config, await roundedTensors(quantised), {
    cacheFolder: folder,
  });
  const expected = await (await loadStep(reference, { ...spec, model: rounded })).run(
    parameters,
    feedsFor(head),
  );
  // float32 against float64: each of a few hundred sums is off by about 1e-7 of its terms.
  t.ok(Math.abs(loss - expected.loss) < 1e-5 * expected.loss, `loss ${loss}, ${expected.loss}`);
  for (const [name, tensor] of expected.gradients) {
    const { error, largest } = distance(gradients.get(name), tensor);
    t.ok(error <= 2e-5 * largest, `${name}: error ${error} of ${largest}`);
    t.ok(largest > 0, `${name}: a gradient to see`);
  }
  const unrounded = await loadStep(engine, plain);
  const exact = await unrounded.run(parameters, feedsFor(head));
  t.not(exact.loss, loss, "rounding changes the numbers");
}

/** The model's tensors with its linear layers as their codes and scales say, read from the file by hand. */
async function roundedTensors({ quantised, ...base }: BaseModel) {
  const tensors = new Map(await readBaseModelTensors(base));
  const bytes = await readFile(quantised?.file ?? "");
  for (const [name, location] of quantised?.tensors ?? []) {
    const { shape, blockSize, dataOffsetBytes, scalesOffsetBytes } = location;
    const columns = shape[1] as number;
    const data = Float32Array.from({ length: (shape[0] as number) * columns }, (_, i) => {
      const row = Math.floor(i / columns);
      const scale = bytes.readFloatLE(
        scalesOffsetBytes + 4 * (Math.floor(row / blockSize) * columns + (i % columns)),
      );
      const half = bytes[dataOffsetBytes + (i >> 1)] ?? 0;
      const nibble = i % 2 === 0 ? half & 0xf : half >> 4;
      const code =
        quantised?.format === "int8"
          ? bytes.readInt8(dataOffsetBytes + i)
          : nibble - (nibble > 7 ? 16 : 0);
      return code * scale;
    });
    tensors.set(name, { dtype: "float32", shape, data });
  }
  t.equal(quantised?.tensors.size, linearModules(base.config).length);
  t.equal(tensors.size, tensorShapes(base.config).size);
  return tensors;
}

async function bothSteps(spec: ModelSpec) {
  const results = [];
  for (const execution of ["whole", "blocks"] as const) {
    const step = await loadStep(engine, { ...spec, execution });
    const feeds = step.withMasks(feedsFor(spec.head), ["masks"]);
    results.push(await step.run(parametersOf(spec), feeds));
    await step.close();
  }
  const [whole, blocks] = results;
  if (!whole || !blocks) throw new Error("two results");
  return [whole, blocks] as const;
}

async function predict(spec: ModelSpec): Promise<Float32Tensor> {
  const predictor = await loadPredictor(engine, spec);
  const logits = await predictor.run(parametersOf(spec), feedsFor(spec.head));
  await predictor.close();
  return logits;
}

/** As after some training: no factor is zero. */
function parametersOf({ model: base, lora: settings, head }: ModelSpec): Parameters {
  const random = randomStream("trained");
  return new Map(
    [...initialParameters(base.config, settings, head, 1)].map(([name, tensor]) => [
      name,
      { ...tensor, data: tensor.data.map(() => 0.1 * random.normal()) },
    ]),
  );
}

function feedsFor(head: HeadSettings): TensorBundle {
  const random = randomStream("tokens");
  const examples = [7, 4, 1].map((length, label) => ({
    tokens: Array.from({ length }, () => random.below(config.vocabSize)),
    label,
  }));
  const { feeds } = makeBatch(examples, { batch, sequence, padTokenId: 0 });
  if (head.kind === "classification") return feeds;
  const tokens = batch * sequence;
  const labels = Array.from({ length: tokens }, () => random.below(config.vocabSize));
  return new Map<string, Tensor>([
    ...feeds,
    ["labels", int64([tokens], labels)],
    [
      "weights",
      { dtype: "float32", shape: [tokens], data: new Float32Array(tokens).fill(1 / tokens) },
    ],
  ]);
}

function scaled({ shape, data }: Float32Tensor, factor: number): Float32Tensor {
  return { dtype: "float32", shape, data: data.map((value) => factor * value) };
}

function distance(actual: Float32Tensor | undefined, expected: Float32Tensor) {
  let error = 0;
  let largest = 0;
  expected.data.forEach((value, i) => {
    error = Math.max(error, Math.abs(value - (actual?.data[i] ?? Number.NaN)));
    largest = Math.max(largest, Math.abs(value));
  });
  return { error, largest };
}

/** Names of the tensors that are not equal to the last bit. */
function differing(actual: Parameters, expected: Parameters): string[] {
  const names = new Set([...actual.keys(), ...expected.keys()]);
  return [...names].filter((name) => {
    const [a, b] = [actual.get(name)?.data, expected.get(name)?.data];
    return (
      !a ||
      !b ||
      !Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(
        Buffer.from(b.buffer, b.byteOffset, b.byteLength),
      )
    );
  });
}
