// A cached prefix must not show in the numbers: what caching activations rests on.
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import {
  adamW,
  baseModelFromTensors,
  batchIndices,
  clipScale,
  type Float32Tensor,
  type Gpt2Config,
  graphFlops,
  initialParameters,
  loadPrefixCachedStep,
  loadStep,
  type ModelSpec,
  makeBatch,
  ortEngine,
  type Parameters,
  type PrefixCacheOptions,
  parameterShapes,
  randomStream,
  randomTensors,
  squaredNorms,
  stepGraph,
  type TrainingStep,
  train,
} from "../../runtime/index.ts";
import { fileRowStore, memoryRowStore, openFileRowStore } from "../../runtime/train/row-store.ts";

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
const [batch, sequence, from] = [4, 12, 2] as const;
const cacheFolder = t.testdir();
const engine = ortEngine({ threads: 2 });
t.teardown(() => engine.close());
const model = await baseModelFromTensors(config, randomTensors(config, 1), { cacheFolder });
const lora = { rank: 4, alpha: 8, targets: ["c_attn", "mlp.c_fc"] };
const spec: ModelSpec = {
  model,
  lora,
  head: { kind: "classification", classes: 3 },
  batch,
  sequence,
};
const rowBytes = 4 * sequence * config.hiddenSize;
/** Eleven texts of lengths that differ: no multiple of the batch, so that rows change their place from epoch to epoch. */
const texts = Array.from({ length: 11 }, (_, i) => {
  const random = randomStream("text", i);
  const tokens = Array.from({ length: 3 + (i % 10) }, () => random.below(config.vocabSize));
  return { tokens, label: i % 3 };
});
/** Two epochs and the beginning of a third. */
const batches = batchIndices(texts.length, batch, 7, ["order"]).map(
  (indices) =>
    makeBatch(
      indices.map((i) => texts[i] as (typeof texts)[number]),
      { batch, sequence, padTokenId: 0 },
    ).feeds,
);
const shapes = parameterShapes(config, lora, spec.head, { from, to: config.layers });
/** Of the blocks from `from` on, B no longer zero. */
const initial: Parameters = new Map(
  [...initialParameters(config, lora, spec.head, 1)]
    .filter(([name]) => shapes.has(name))
    .map(([name, tensor]) => [
      name,
      { ...tensor, data: tensor.data.map((value, i) => value + 0.01 * Math.sin(i)) },
    ]),
);

t.test("two epochs over a cached prefix train the bits of the whole step", async (t) => {
  const step = await cached(t, { memoryBytes: 1e6 });
  t.same(differing(await trained(step), await expected), []);
  const report = step.report();
  // 28 rows of which 11 are new ones, and no batch but the first three has a new one.
  t.match(report, { hits: 17, misses: 11, memoryBytes: 11 * rowBytes, fileBytes: 0 });
  t.ok((report.cachedMs as number) > 0 && (report.computedMs as number) > 0);
});

t.test("rows without room are computed again, and the bound is kept", async (t) => {
  const step = await cached(t, { memoryBytes: 5 * rowBytes + 100 });
  t.same(differing(await trained(step), await expected), []);
  const { hits, misses, memoryBytes } = step.report();
  t.equal(memoryBytes, 5 * rowBytes);
  t.equal(hits + misses, 28);
  // The five that came first are found twice, or three times if the third epoch's beginning has them.
  t.ok(hits >= 5 && hits <= 10, `${hits} hits`);
  const none = await cached(t, { memoryBytes: 0 });
  t.same(differing(await trained(none), await expected), []);
  t.match(none.report(), { hits: 0, misses: 28, memoryBytes: 0 });
});

t.test("what memory has no room for is kept in a file without a name", async (t) => {
  const folder = t.testdir();
  const options = { memoryBytes: 3 * rowBytes, folder };
  const step = await cached(t, options);
  t.same(differing(await trained(step), await expected), []);
  const recordBytes = 16 + rowBytes;
  t.match(step.report(), { hits: 17, misses: 11, fileBytes: 8 * recordBytes });
  t.same(await readdir(folder), []);
  const small = await cached(t, { ...options, folderBytes: 2 * recordBytes });
  t.same(differing(await trained(small), await expected), []);
  t.equal(small.report().fileBytes, 2 * recordBytes);
});

t.test("the whole step costs the prefix in the first epoch only", async (t) => {
  const step = await cached(t, { memoryBytes: 1e6 });
  const tail = graphFlops(stepGraph(spec, { from, wantsCutGradient: false }).graph);
  const first = step.flops;
  t.ok(first > tail);
  await trained(step);
  // Seven runs, three of them with the prefix.
  t.equal(step.flops, tail + (3 / 7) * (first - tail));
});

t.test("a tail that owes nobody a gradient at its input does not compute it", async (t) => {
  const { graph, cutGradient } = stepGraph(spec, { from, wantsCutGradient: false });
  t.equal(cutGradient, undefined);
  t.ok(graphFlops(graph) < graphFlops(stepGraph(spec, { from }).graph));
});

t.test("a prefix with adapters, or without blocks, is refused", async (t) => {
  for (const place of [0, 4, 1.5]) {
    const loading = loadPrefixCachedStep(engine, spec, { from: place, memoryBytes: 0 });
    await t.rejects(loading, { code: "ADAPTER_INVALID", message: /expected 1 to 3 of 4/ });
  }
  const step = await cached(t, { memoryBytes: 0 });
  const all = initialParameters(config, lora, spec.head, 1);
  const running = step.run(all, batches[0] as (typeof batches)[number]);
  await t.rejects(running, { code: "ADAPTER_INVALID", message: /h\.0\.attn\.c_attn/ });
});

t.test("a store gives back what it was given, once it was given it", async (t) => {
  const stores = [memoryRowStore(100), await openFileRowStore(t.testdir(), 100)];
  for (const store of stores) {
    const row = new Float32Array(3);
    t.equal(await store.read("a", row), false);
    const given = Float32Array.of(1, -0, Number.NaN);
    t.equal(await store.write("a", given), true);
    given.fill(7);
    t.equal(await store.write("a", given), true, "kept once");
    t.equal(await store.read("a", row), true);
    t.same(row, Float32Array.of(1, -0, Number.NaN));
    // 3 numbers, and 16 bytes of checksum in a file: the third or fourth row has no room.
    for (let i = 0; await store.write(`${i}`, row); i++) if (i > 10) t.fail("no bound");
    t.ok(store.bytes <= 100 && store.bytes > 60, `${store.bytes} bytes`);
    await Promise.all([store.close(), store.close()]);
  }
});

t.test("a folder that cannot be made is refused by name", async (t) => {
  const file = join(t.testdir({ taken: "a file" }), "taken");
  const refused = { code: "CACHE_FOLDER_UNUSABLE", message: /taken/ };
  await t.rejects(openFileRowStore(join(file, "below"), 100), refused);
  const loading = cached(t, { memoryBytes: 0, folder: file });
  await t.rejects(loading, refused);
});

t.test("a damaged or missing part of the file is a row that is not there", async (t) => {
  const path = join(t.testdir(), "rows");
  const store = fileRowStore(await open(path, "wx+"), 1000);
  t.teardown(() => store.close());
  const row = new Float32Array(3);
  for (const [i, key] of ["a", "b", "c"].entries()) await store.write(key, row.fill(i + 1));
  const file = await open(path, "r+");
  t.teardown(() => file.close());
  // Records of 28 bytes: one bit of the second row flips, the third is cut short.
  await file.write(Uint8Array.of(0x41), 0, 1, 28 + 16);
  await file.truncate(3 * 28 - 1);
  const found = [];
  for (const key of ["a", "b", "c"]) found.push(await store.read(key, row));
  t.same(found, [true, false, false]);
  t.equal(await store.write("b", row.fill(9)), true);
  t.equal(await store.read("b", row.fill(0)), true);
  t.same(row, Float32Array.of(9, 9, 9));
  t.equal(store.bytes, 3 * 28, "in the place of a damaged one");
});

t.test("a full disk ends the growth of the file, not the training", async (t) => {
  const device = await open("/dev/full", "r+").catch(() => undefined);
  if (!device) {
    t.pass("this system has no /dev/full");
    return;
  }
  const store = fileRowStore(device, 1000);
  t.equal(await store.write("a", new Float32Array(3)), false);
  t.equal(await store.read("a", new Float32Array(3)), false);
  t.equal(store.bytes, 0);
  await store.close();
});

async function cached(t: Test, options: Omit<PrefixCacheOptions, "from">) {
  const step = await loadPrefixCachedStep(engine, spec, { from, ...options });
  t.teardown(() => step.close());
  return step;
}

async function trained(step: TrainingStep): Promise<Parameters> {
  const options = { initial, batches, rateAt: () => 1e-2, maxGradientNorm: 1 };
  return (await train({ step, ...options })).parameters;
}

/** The whole model, its first blocks' adapters at their start: B is zero, so they add nothing. */
const expected = (async () => {
  const step = await loadStep(engine, spec);
  const start = initialParameters(config, lora, spec.head, 1);
  const optimizer = adamW(initial);
  for (const feeds of batches) {
    const { gradients } = await step.run(new Map([...start, ...optimizer.parameters]), feeds);
    const trained = new Map([...gradients].filter(([name]) => shapes.has(name)));
    optimizer.step(trained, { rate: 1e-2, scale: clipScale(squaredNorms(trained), 1) });
  }
  await step.close();
  return optimizer.parameters;
})();

/** Names of the tensors whose bits differ. */
function differing(actual: Parameters, wanted: Parameters): string[] {
  const bytes = ({ data }: Float32Tensor) =>
    Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return [...wanted.keys()].filter((name) => {
    const found = actual.get(name);
    return !found || !bytes(found).equals(bytes(wanted.get(name) as Float32Tensor));
  });
}
