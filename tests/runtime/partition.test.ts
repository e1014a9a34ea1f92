// A model cut at any layer must compute the same bits as the whole one: what split rests on.
import t from "tap";
import {
  adamW,
  type BaseModel,
  baseModelFromTensors,
  clipScale,
  type Float32Tensor,
  float32,
  type Gpt2Config,
  graphFlops,
  headParameter,
  initialParameters,
  int64,
  type LlamaConfig,
  type LoraSettings,
  loadFront,
  loadMiddle,
  loadPredictor,
  loadStep,
  logitsGraph,
  type ModelConfig,
  type ModelSpec,
  makeBatch,
  ortEngine,
  type Parameters,
  randomStream,
  randomTensors,
  squaredNorms,
  stepGraph,
  type TensorBundle,
} from "../../runtime/index.ts";

const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 97,
  positions: 64,
  hiddenSize: 48,
  layers: 4,
  heads: 4,
  innerSize: 192,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};
/** Grouped queries, heads wider than hidden / heads, biases, normalised queries and keys, a head of its own. */
const llamaConfig: LlamaConfig = {
  family: "llama",
  vocabSize: 97,
  positions: 64,
  hiddenSize: 40,
  layers: 4,
  heads: 6,
  keyValueHeads: 2,
  headSize: 8,
  innerSize: 108,
  rmsNormEpsilon: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  attentionBias: true,
  outputBias: true,
  feedForwardBias: true,
  queryKeyNorm: true,
  tiedEmbedding: false,
  padTokenId: 0,
};
const cacheFolder = t.testdir();
const engine = ortEngine({ threads: 2 });
t.teardown(() => engine.close());
const model = await baseModelFromTensors(config, randomTensors(config, 1), { cacheFolder });
const lora: LoraSettings = { rank: 4, alpha: 8, targets: ["c_attn", "mlp.c_fc"] };
const subjects: readonly (readonly [ModelConfig, LoraSettings])[] = [
  [config, lora],
  [llamaConfig, { ...lora, targets: ["q_proj", "v_proj", "mlp.up_proj"] }],
];
const maskKey = [7, "dropout", 1, "a", 0];

// One token, sizes that fill no vector register, and sizes that do.
const shapes = [
  [1, 1],
  [3, 7],
  [5, 33],
  [8, 64],
] as const;

for (const [config, lora] of subjects) {
  const model = await baseModelFromTensors(config, randomTensors(config, 1), { cacheFolder });
  for (const [batch, sequence] of shapes) {
    for (const dropout of [0, 0.4]) {
      const title = `cut at any layer, a ${config.family} step of ${batch} x ${sequence} with dropout ${dropout} gives the bits of the whole`;
      t.test(title, async (t) => {
        const spec = classifier(model, batch, sequence, { ...lora, dropout });
        const texts = classifierFeeds(batch, sequence);
        const parameters = trainedParameters(spec);
        const whole = await loadStep(engine, spec);
        const expected = await whole.run(parameters, whole.withMasks(texts, maskKey));
        for (let cutLayer = 1; cutLayer < config.layers; cutLayer++) {
          const front = await loadFront(engine, spec, cutLayer);
          const tail = await loadStep(engine, spec, { from: cutLayer });
          const feeds = front.withMasks(texts, maskKey);
          const activations = await front.forward(parameters, feeds);
          const entering = new Map([...texts, ["activations", activations] as const]);
          const tailFeeds = tail.withMasks(entering, maskKey);
          const { loss, gradients, cutGradient } = await tail.run(parameters, tailFeeds);
          const frontGradients = await front.backward(
            parameters,
            feeds,
            cutGradient as Float32Tensor,
          );
          t.equal(loss, expected.loss, `loss at cut ${cutLayer}`);
          const together = new Map([...frontGradients, ...gradients]);
          t.equal(
            together.size,
            frontGradients.size + gradients.size,
            "no parameter on both sides",
          );
          t.same(differing(together, expected.gradients), [], `gradients at cut ${cutLayer}`);
          // Clipping and the optimizer see both sides' squares, in name order.
          const squares = new Map([...squaredNorms(gradients), ...squaredNorms(frontGradients)]);
          const limit = 1e-3;
          t.equal(clipScale(squares, limit), clipScale(squaredNorms(expected.gradients), limit));
          await front.close();
          await tail.close();
        }
        await whole.close();
      });
    }
  }

  t.test(`a cut ${config.family} language model gives the bits of the whole`, async (t) => {
    const [batch, sequence] = [2, 9];
    const spec: ModelSpec = { model, lora, head: { kind: "lm" }, batch, sequence };
    const parameters = trainedParameters(spec);
    const feeds = languageFeeds(batch, sequence);
    const whole = await loadStep(engine, spec);
    const expected = await whole.run(parameters, feeds);
    const front = await loadFront(engine, spec, 2);
    const tail = await loadStep(engine, spec, { from: 2 });
    const activations = await front.forward(parameters, feeds);
    const result = await tail.run(parameters, new Map([...feeds, ["activations", activations]]));
    const cutGradient = result.cutGradient as Float32Tensor;
    const gradients = await front.backward(parameters, feeds, cutGradient);
    t.equal(result.loss, expected.loss);
    t.same(differing(new Map([...result.gradients, ...gradients]), expected.gradients), []);
  });
}

for (const [config, lora] of subjects) {
  const model = await baseModelFromTensors(config, randomTensors(config, 1), { cacheFolder });
  for (const kind of ["classification", "lm"] as const) {
    const title = `cut twice at any layers, a ${config.family} ${kind} step gives the bits of the whole`;
    t.test(title, async (t) => {
      for (const dropout of [0, 0.4]) {
        const [batch, sequence] = [3, 7];
        const head = kind === "lm" ? { kind } : { kind, classes: 5 };
        const spec: ModelSpec = { model, lora: { ...lora, dropout }, head, batch, sequence };
        const texts =
          kind === "lm" ? languageFeeds(batch, sequence) : classifierFeeds(batch, sequence);
        const parameters = trainedParameters(spec);
        const whole = await loadStep(engine, spec);
        const expected = await whole.run(parameters, whole.withMasks(texts, maskKey));
        const logits = await (await loadPredictor(engine, spec)).run(parameters, texts);
        for (const [from, to] of everyTwoCuts(config.layers)) {
          const place = `blocks ${from} to ${to}, dropout ${dropout}`;
          const front = await loadFront(engine, spec, from);
          const middle = await loadMiddle(engine, spec, { from, to });
          const tail = await loadStep(engine, spec, { from: to });
          const feeds = front.withMasks(texts, maskKey);
          const entering = await front.forward(parameters, feeds);
          const middleFeeds = middle.withMasks(
            new Map([...texts, ["activations", entering] as const]),
            maskKey,
          );
          const leaving = await middle.forward(parameters, middleFeeds);
          const tailFeeds = new Map([...texts, ["activations", leaving] as const]);
          const last = await tail.run(parameters, tail.withMasks(tailFeeds, maskKey));
          const between = await middle.backward(
            parameters,
            middleFeeds,
            last.cutGradient as Float32Tensor,
          );
          const first = await front.backward(parameters, feeds, between.cutGradient);
          t.equal(last.loss, expected.loss, place);
          const parts = [...first, ...between.gradients, ...last.gradients];
          t.equal(parts.length, expected.gradients.size, "no parameter on two sides");
          t.same(differing(new Map(parts), expected.gradients), [], place);
          const evaluated = await middle.evaluate(
            parameters,
            new Map([...texts, ["activations", await front.evaluate(parameters, texts)] as const]),
          );
          const predictor = await loadPredictor(engine, spec, { from: to });
          const behind = new Map([...texts, ["activations", evaluated] as const]);
          t.same(await predictor.run(parameters, behind), logits, `logits, ${place}`);
          for (const part of [front, middle, tail, predictor]) await part.close();
        }
      }
    });
  }
}

/** Every front and tail that leave a block between them; a tail may be the head alone. */
function everyTwoCuts(layers: number): [number, number][] {
  const cuts: [number, number][] = [];
  for (let from = 1; from < layers; from++) {
    for (let to = from + 1; to <= layers; to++) cuts.push([from, to]);
  }
  return cuts;
}

t.test("dropout takes from training alone, and other for every step", async (t) => {
  const dropped = classifier(model, 3, 7, { ...lora, dropout: 0.5 });
  const parameters = trainedParameters(dropped);
  const texts = classifierFeeds(3, 7);
  const step = await loadStep(engine, dropped);
  const losses = new Set<number>();
  for (const key of [0, 1, 2]) {
    losses.add((await step.run(parameters, step.withMasks(texts, [key]))).loss);
  }
  t.equal(losses.size, 3);
  t.equal((await step.run(parameters, step.withMasks(texts, [1]))).loss, [...losses][1]);
  const missing = { code: "SESSION_FEED_INVALID", message: /lora_dropout .* is missing/ };
  await t.rejects(step.run(parameters, texts), missing);
  const plain = classifier(model, 3, 7);
  const evaluations = [logitsGraph(dropped), stepGraph(dropped, { wantsGradients: false })];
  const expected = [logitsGraph(plain), stepGraph(plain, { wantsGradients: false })];
  t.same(evaluations, expected, "evaluation has the graphs of a model without dropout");
  const front = await loadFront(engine, dropped, 2);
  const without = await loadFront(engine, plain, 2);
  t.same(await front.evaluate(parameters, texts), await without.evaluate(parameters, texts));
  t.same(without.withMasks(texts, [1]), texts);
});

t.test("a mask that keeps everything gives the gradients of a step without dropout", async (t) => {
  const dropped = await loadStep(engine, classifier(model, 3, 7, { ...lora, dropout: 0.5 }));
  const plain = await loadStep(engine, classifier(model, 3, 7));
  const parameters = trainedParameters(classifier(model, 3, 7));
  const texts = classifierFeeds(3, 7);
  const masked = dropped.withMasks(texts, [1]);
  const masks = [...masked].flatMap(([name, { dtype, shape }]) =>
    dtype === "float32" && name.endsWith("lora_dropout") ? [{ name, shape }] : [],
  );
  t.equal(masks.length, 8, "two layers in each of four blocks");
  const ones: TensorBundle = new Map([
    ...masked,
    ...masks.map(({ name, shape }) => [name, allOnes(shape)] as const),
  ]);
  const expected = await plain.run(parameters, texts);
  const actual = await dropped.run(parameters, ones);
  t.equal(actual.loss, expected.loss);
  t.same(differing(actual.gradients, expected.gradients), []);
});

t.test("the rank-stabilised scale is that of a larger alpha", async (t) => {
  const spec = classifier(model, 3, 7, { ...lora, rsLora: true });
  // Rank 4: alpha 8 / sqrt(4) is alpha 16 / 4.
  const same = classifier(model, 3, 7, { ...lora, alpha: 16 });
  const feeds = classifierFeeds(3, 7);
  const results = [];
  for (const one of [spec, same]) {
    results.push(await (await loadStep(engine, one)).run(trainedParameters(one), feeds));
  }
  t.same(results[0], results[1]);
});

t.test("steps cut at changing layers train the same adapter as whole ones", async (t) => {
  const [batch, sequence] = [4, 16];
  const spec = classifier(model, batch, sequence);
  const whole = await loadStep(engine, spec);
  const wholeOptimizer = adamW(trainedParameters(spec));
  const cutOptimizer = adamW(trainedParameters(spec));
  for (const [index, cutLayer] of [1, 3, 2].entries()) {
    const feeds = classifierFeeds(batch, sequence, index);
    const expected = await whole.run(wholeOptimizer.parameters, feeds);
    wholeOptimizer.step(expected.gradients, { rate: 1e-2 });
    const front = await loadFront(engine, spec, cutLayer);
    const tail = await loadStep(engine, spec, { from: cutLayer });
    const activations = await front.forward(cutOptimizer.parameters, feeds);
    const withActivations = new Map([...feeds, ["activations", activations] as const]);
    const behind = await tail.run(cutOptimizer.parameters, withActivations);
    const before = await front.backward(
      cutOptimizer.parameters,
      feeds,
      behind.cutGradient as Float32Tensor,
    );
    cutOptimizer.step(new Map([...before, ...behind.gradients]), { rate: 1e-2 });
    await front.close();
    await tail.close();
  }
  t.same(differing(cutOptimizer.parameters, wholeOptimizer.parameters), []);
});

t.test("padding and other rows' texts change no row's gradient", async (t) => {
  const [batch, sequence] = [2, 12];
  const head = { kind: "classification", classes: 3 } as const;
  const shape = { batch, sequence, padTokenId: 0 };
  const text = { tokens: [5, 6, 7, 8], label: 2 };
  const step = await loadStep(engine, { model, lora, head, batch, sequence });
  const parameters = trainedParameters({ model, lora, head, batch, sequence });
  const alone = await step.run(parameters, makeBatch([text], shape).feeds);
  const other = makeBatch([text, { tokens: [9, 9], label: -1 }], { ...shape, padTokenId: 96 });
  const together = await step.run(parameters, other.feeds);
  t.equal(together.loss, alone.loss);
  t.same(differing(together.gradients, alone.gradients), []);
});

t.test("a step costs about twice the products of its loss", (t) => {
  const spec = classifier(model, 4, 16);
  const loss = graphFlops(stepGraph(spec, { wantsGradients: false }).graph);
  const step = graphFlops(stepGraph(spec).graph);
  // Backward to activations doubles the products of the frozen weights; attention and adapters have two each.
  t.ok(step / loss > 1.9 && step / loss < 2.3, `${step / loss}`);
  t.end();
});

function classifier(model: BaseModel, batch: number, sequence: number, settings = lora): ModelSpec {
  return { model, lora: settings, head: { kind: "classification", classes: 5 }, batch, sequence };
}

function classifierFeeds(batch: number, sequence: number, key = 0) {
  const random = randomStream("texts", key);
  const examples = Array.from({ length: batch }, (_, row) => ({
    // Short texts too, so that there is padding.
    tokens: Array.from({ length: Math.max(1, sequence - row) }, () => random.below(97)),
    label: row % 5,
  }));
  return makeBatch(examples, { batch, sequence, padTokenId: 0 }).feeds;
}

function languageFeeds(batch: number, sequence: number): TensorBundle {
  const tokens = batch * sequence;
  const random = randomStream("lm labels");
  const labels = Array.from({ length: tokens }, () => random.below(config.vocabSize));
  return new Map([
    ...classifierFeeds(batch, sequence),
    ["labels", int64([tokens], labels)] as const,
    ["weights", { dtype: "float32", shape: [tokens], data: evenWeights(tokens) }] as const,
  ]);
}

/** Parameters as training leaves them: no factor is zero. */
function trainedParameters({ model, lora, head }: ModelSpec): Parameters {
  const random = randomStream("trained");
  return new Map(
    [...initialParameters(model.config, lora, head, 1)].map(([name, tensor]) => [
      name,
      name === headParameter
        ? tensor
        : { ...tensor, data: tensor.data.map(() => 0.1 * random.normal()) },
    ]),
  );
}

function evenWeights(count: number): Float32Array {
  return new Float32Array(count).fill(1 / count);
}

/** Names of the tensors that are not equal to the last bit. */
function differing(actual: Parameters, expected: Parameters): string[] {
  const names = new Set([...actual.keys(), ...expected.keys()]);
  const bytes = (tensor: Float32Tensor | undefined) =>
    tensor && Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  return [...names].filter((name) => {
    const [a, b] = [bytes(actual.get(name)), bytes(expected.get(name))];
    return !a || !b || !a.equals(b);
  });
}

function allOnes(shape: readonly number[]): Float32Tensor {
  const { data } = float32(shape);
  return float32(shape, data.fill(1));
}
