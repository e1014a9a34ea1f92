// The loop and its batches: dropout masks, accumulation, going on, giving up, buckets of length.
import t from "tap";
import {
  baseModelFromTensors,
  bucketedIndices,
  bucketedStep,
  bucketOf,
  createOptimizer,
  dropoutMask,
  type Example,
  float32,
  type Gpt2Config,
  initialParameters,
  lengthBuckets,
  loadStep,
  type ModelSpec,
  makeBatch,
  makeLanguageBatch,
  ortEngine,
  type Parameters,
  randomStream,
  randomTensors,
  type StepResult,
  type TensorBundle,
  train,
} from "../../runtime/index.ts";

t.test("a dropout mask is a function of its key, and keeps the mean", (t) => {
  const [length, probability] = [100_000, 0.3];
  const mask = dropoutMask(length, probability, [7, "dropout", 1, "a", 0, "name"]);
  const random = randomStream(7, "dropout", 1, "a", 0, "name");
  const kept = Math.fround(1 / 0.7);
  t.ok(
    mask.every((value) => value === (random.next() < probability ? 0 : kept)),
    "the stream of the same key decides",
  );
  const mean = mask.reduce((sum, value) => sum + value, 0) / length;
  // The deviation of the mean is sqrt(0.3 / 0.7 / 100,000) = 0.0021; five of them.
  t.ok(Math.abs(mean - 1) < 0.0105, `${mean}`);
  const other = dropoutMask(length, probability, [7, "dropout", 1, "a", 1, "name"]);
  const same = mask.reduce((sum, value, i) => sum + (value === other[i] ? 1 : 0), 0);
  // Independent masks agree with probability 0.3^2 + 0.7^2 = 0.58; deviation 0.0016.
  t.ok(Math.abs(same / length - 0.58) < 0.008, `${same / length}`);
  const part = dropoutMask(100, probability, [7, "dropout", 1, "a", 0, "name"]);
  t.same(part, mask.subarray(0, 100), "element i does not depend on the length");
  t.ok(dropoutMask(1000, 0, ["none"]).every((value) => value === 1));
  t.end();
});

const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 97,
  positions: 64,
  hiddenSize: 32,
  layers: 2,
  heads: 4,
  innerSize: 64,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};
const engine = ortEngine({ threads: 1 });
t.teardown(() => engine.close());
const model = await baseModelFromTensors(config, randomTensors(config, 1), {
  cacheFolder: t.testdir(),
});
const lora = { rank: 4, alpha: 8, targets: ["c_attn"] };

for (const kind of ["classification", "lm"] as const) {
  t.test(`accumulated ${kind} batches are one large batch, whatever their sizes`, async (t) => {
    const head = kind === "lm" ? { kind } : { kind, classes: 3 };
    const examples = texts(12, 3);
    const spec = (batch: number): ModelSpec => ({ model, lora, head, batch, sequence: 16 });
    const initial = initialParameters(config, lora, head, 1);
    const make = kind === "lm" ? makeLanguageBatch : makeBatch;
    const shape = (batch: number) => ({ batch, sequence: 16, padTokenId: 0 });
    const whole = make(examples, shape(12));
    const counted =
      kind === "lm" ? examples.reduce((sum, { tokens }) => sum + tokens.length - 1, 0) : 12;
    // The last part is short, so that its rows may not count more than others.
    const parts = [0, 5, 10].map(
      (from) => make(examples.slice(from, from + 5), { ...shape(5), counted }).feeds,
    );
    const results: Parameters[] = [];
    const losses: number[] = [];
    for (const [batch, feeds] of [
      [12, whole.feeds],
      [5, parts],
    ] as const) {
      const step = await loadStep(engine, spec(batch));
      // SGD without momentum and clipping moves by the gradient itself.
      const optimizer = createOptimizer({ kind: "sgd", momentum: 0 }, initial);
      const run = { step, optimizer, batches: [feeds], rateAt: () => 1, maxGradientNorm: 1e9 };
      const result = await train(run);
      losses.push(result.meanLoss);
      results.push(result.parameters);
    }
    const [large, small] = results as [Parameters, Parameters];
    t.ok(Math.abs((losses[0] as number) - (losses[1] as number)) < 1e-6, `${losses}`);
    for (const [name, { data }] of large) {
      const other = small.get(name)?.data ?? [];
      const most = Math.max(...data.map((value, i) => Math.abs(value - (other[i] as number))));
      const before = initial.get(name)?.data ?? [];
      const moved = Math.max(...data.map((value, i) => Math.abs(value - (before[i] as number))));
      // Sums of a hundred products in another order, and the rounding of parameters up to 0.2 (1.5e-8).
      t.ok(most < 3e-8 + 1e-5 * moved, `${name}: ${most} of ${moved}`);
    }
  });
}

t.test("a run that goes on from another's optimizer makes the same adapter", async (t) => {
  const head = { kind: "classification", classes: 3 } as const;
  const dropping = { ...lora, dropout: 0.2 };
  const step = await loadStep(engine, { model, lora: dropping, head, batch: 4, sequence: 16 });
  const batches = [0, 1, 2, 3, 4, 5].map(
    (i) => makeBatch(texts(4, 3, i), { batch: 4, sequence: 16, padTokenId: 0 }).feeds,
  );
  const initial = initialParameters(config, dropping, head, 1);
  const common = {
    step,
    rateAt: (at: number) => 1e-2 / (1 + at),
    maxGradientNorm: 0.5,
    maskKey: ["test"],
  };
  for (const settings of [{ kind: "adamw", weightDecay: 0.1 }, { kind: "sgd" }] as const) {
    const whole = createOptimizer(settings, initial);
    await train({ ...common, optimizer: whole, batches });
    const first = createOptimizer(settings, initial);
    await train({ ...common, optimizer: first, batches: batches.slice(0, 2) });
    const second = createOptimizer(settings, first.parameters, first.state());
    await train({ ...common, optimizer: second, batches: batches.slice(2), firstStep: 2 });
    t.same(second.parameters, whole.parameters, settings.kind);
    t.same(second.state(), whole.state());
  }
});

t.test("an aborted run gives up the step at hand and keeps the one before", async (t) => {
  const controller = new AbortController();
  const started: number[] = [];
  const step = {
    withMasks: (feeds: TensorBundle) => feeds,
    // The third step never ends, as native code may not for minutes.
    run: (): Promise<StepResult> => {
      started.push(started.length);
      if (started.length === 3) {
        controller.abort(new Error("enough"));
        return new Promise(() => undefined);
      }
      return Promise.resolve({ loss: 1, flops: 1, gradients: oneParameter(1) });
    },
  };
  const optimizer = createOptimizer({ kind: "sgd", momentum: 0 }, oneParameter(0));
  const { signal } = controller;
  const batches = Array.from({ length: 5 }, () => new Map());
  const running = train({
    step,
    optimizer,
    batches,
    rateAt: () => 1,
    maxGradientNorm: 9,
    signal,
  });
  await t.rejects(running, { message: "enough" });
  t.same(optimizer.parameters.get("p")?.data, [-2]);
  t.equal(optimizer.state().steps, 2);
});

t.test("bucketed batches hold every text once an epoch, of like length, by the key alone", (t) => {
  const buckets = lengthBuckets(100);
  t.same(buckets, [32, 64, 96, 100]);
  t.same(lengthBuckets(24), [24]);
  t.same(lengthBuckets(1024), [32, 64, 96, 128, 192, 256, 384, 512, 768, 1024]);
  t.same(
    [1, 32, 33, 100, 500].map((tokens) => bucketOf(buckets, tokens)),
    [32, 32, 64, 100, 100],
  );
  const random = randomStream("lengths");
  const lengths = Array.from({ length: 203 }, () => bucketOf(buckets, 1 + random.below(120)));
  const order = { buckets: lengths, batchSize: 8, count: 60, key: [1, "train"] };
  const batches = bucketedIndices(order);
  t.same(bucketedIndices(order), batches);
  t.notSame(bucketedIndices({ ...order, key: [2, "train"] }), batches);
  t.same(bucketedIndices({ ...order, count: 13 }), batches.slice(0, 13), "a shorter run is a part");
  t.ok(batches.every((batch) => batch.length === 8));
  // 25 batches an epoch; three texts are left over and join the next.
  const epoch = new Set(batches.slice(0, 25).flat());
  t.equal(epoch.size, 200);
  const seen = new Set(batches.slice(0, 51).flat());
  t.equal(seen.size, 203);
  const isMixed = (batch: readonly number[]) => new Set(batch.map((i) => lengths[i])).size > 1;
  // One batch may straddle each border of four buckets.
  t.ok(batches.slice(0, 25).filter(isMixed).length <= 3);
  const sizes = batches.slice(0, 25).map((batch) => Math.max(...batch.map((i) => lengths[i] ?? 0)));
  t.notSame(
    sizes,
    sizes.toSorted((a, b) => a - b),
    "lengths come in no order",
  );
  const few = bucketedIndices({ ...order, buckets: [32, 32, 64], count: 3 });
  t.same([...new Set(few.flat())].sort(), [0, 1, 2], "fewer texts than a batch repeat");
  t.end();
});

t.test("a batch runs on the graph of its bucket, and padding changes only rounding", async (t) => {
  const head = { kind: "classification", classes: 3 } as const;
  const spec: ModelSpec = { model, lora, head, batch: 4, sequence: 64 };
  const steps = new Map([
    [32, await loadStep(engine, { ...spec, sequence: 32 })],
    [64, await loadStep(engine, spec)],
  ]);
  const step = bucketedStep(steps);
  const initial = initialParameters(config, lora, head, 1);
  const examples = texts(4, 3);
  const [short, long] = await Promise.all(
    [32, 64].map((sequence) => {
      const { feeds } = makeBatch(examples, { batch: 4, sequence, padTokenId: 0 });
      return step.run(initial, step.withMasks(feeds, []));
    }),
  );
  t.equal(short?.flops, steps.get(32)?.flops);
  t.equal(long?.flops, steps.get(64)?.flops);
  // Softmax sums 32 or 64 terms; those of padding are zero, the order of the others may change.
  t.ok(Math.abs((short?.loss ?? 0) - (long?.loss ?? 9)) < 1e-6, `${short?.loss} ${long?.loss}`);
});

/** Random texts of 2 to 16 tokens. */
function texts(count: number, classes: number, seed = 0): Example[] {
  const random = randomStream("texts", seed);
  return Array.from({ length: count }, () => ({
    tokens: Array.from({ length: 2 + random.below(15) }, () => random.below(config.vocabSize)),
    label: random.below(classes),
  }));
}

function oneParameter(value: number): Parameters {
  return new Map([["p", float32([1], [value])]]);
}
