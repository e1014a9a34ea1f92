// How gradients of several rules come together, by hand, and those of whole models against central finite
// differences in float64. Each rule by itself: autodiff-properties.test.ts.
import { join } from "node:path";
import t, { type Test } from "tap";
import { packageRoot } from "../../apps/package-root.ts";
import { gradients, lossSeed } from "../../runtime/autodiff/backward.ts";
import { type GraphBuilder, graphBuilder } from "../../runtime/graph/builder.ts";
import type { Value } from "../../runtime/graph/ir.ts";
import { referenceEngine } from "../../runtime/graph/reference.ts";
import type { HeadSettings, LoraSettings } from "../../runtime/models/lora.ts";
import { parameterShapes } from "../../runtime/models/lora.ts";
import {
  type ModelSpec,
  type Objective,
  type StepGraph,
  stepGraph,
} from "../../runtime/models/partition.ts";
import { openBaseModel, readBaseModelTensors } from "../../runtime/models/pretrained.ts";
import { pretrainingGraph } from "../../runtime/models/pretraining.ts";
import { randomStream } from "../../runtime/random.ts";
import type { Session } from "../../runtime/session/engine.ts";
import {
  elementCount,
  type Float64Tensor,
  float32,
  int64,
  type Tensor,
  type TensorBundle,
} from "../../runtime/tensor.ts";

const engine = referenceEngine();
t.teardown(() => engine.close());
const cacheFolder = t.testdir();
const model = await openBaseModel(join(packageRoot(), "tests", "goldens", "gpt2"), {
  cacheFolder,
});

/** Central differences err by step^2 / 6 of the third derivative and by rounding, 1e-16 / step. */
const step = 1e-5;

t.test("a value used several times collects the gradients of all its uses", async (t) => {
  const b = graphBuilder();
  const x = b.input("x", "float32", [2, 2]);
  // tr-like sum of x x^T + exp(x) * x, where one node reads x twice.
  const product = b.op("Gemm", [x, x], { alpha: 1, transA: false, transB: true });
  const sum = b.op("Add", [product, b.op("Mul", [b.op("Exp", [x], {}), x], {})], {});
  const loss = b.op("ReduceSum", [sum], { axes: [0, 1], keepDims: false });
  const [gradient] = gradients(b, [lossSeed(b, loss)], [x]) as [Value];
  b.output(gradient);
  const session = await engine.load(b.build("fan-out"));
  const [p, q, r, s] = [0.1, -0.2, 0.3, 0.4];
  const output = await session.run(new Map([["x", double([2, 2], [p, q, r, s])]]));
  // d/dx of sum(x x^T): twice the column sums; of exp(x) x: exp(x) (1 + x).
  const columns = [p + r, q + s];
  const expected = [p, q, r, s].map(
    (value, i) => 2 * (columns[i % 2] as number) + Math.exp(value) * (1 + value),
  );
  const actual = output.get(gradient.name)?.data as Float64Array;
  expected.forEach((value, i) => {
    t.ok(Math.abs((actual[i] as number) - value) < 1e-14, `element ${i}`);
  });
});

t.test("one value in place of several inputs collects the gradients of all of them", async (t) => {
  const uses = {
    product: {
      build: (b: GraphBuilder, x: Value) => b.op("Mul", [x, x], {}),
      seed: [1, 10, 100, 1000],
      // 2 x times the seed.
      expected: [2, 40, 600, 8000],
    },
    "x x^T": {
      build: (b: GraphBuilder, x: Value) =>
        b.op("MatMul", [x, b.op("Transpose", [x], { perm: [1, 0] })], {}),
      seed: [1, 10, 100, 1000],
      // (S + S^T) x = [[2, 110], [110, 2000]] [[1, 2], [3, 4]].
      expected: [332, 444, 6110, 8220],
    },
    "x beside x": {
      build: (b: GraphBuilder, x: Value) => b.op("Concat", [x, x], { axis: 1 }),
      seed: [1, 10, 100, 1000, 2, 20, 200, 2000],
      expected: [101, 1010, 202, 2020],
    },
  };
  for (const [title, { build, seed, expected }] of Object.entries(uses)) {
    const b = graphBuilder();
    const x = b.input("x", "float32", [2, 2]);
    const y = build(b, x);
    const seeds = [{ value: y, gradient: b.constant(float32(y.shape, seed)) }];
    const [gradient] = gradients(b, seeds, [x]) as [Value];
    for (const value of [y, gradient]) b.output(value);
    const session = await engine.load(b.build(title));
    const results = await session.run(new Map([["x", double([2, 2], [1, 2, 3, 4])]]));
    t.same([...(results.get(gradient.name)?.data ?? [])], expected, title);
  }
});

t.test("several seeds add up, and a path that leads to no wanted value is not built", async (t) => {
  const b = graphBuilder();
  const x = b.input("x", "float32", [2]);
  const other = b.input("other", "float32", [2]);
  const y = b.op("Mul", [x, other], {});
  const seeds = [3, 4].map((value) => ({
    value: y,
    gradient: b.constant(float32([2], [value, 1])),
  }));
  const before = b.nodes.length;
  const [gradient] = gradients(b, seeds, [x]) as [Value];
  // One sum of the seeds and one product: nothing for `other`.
  t.equal(b.nodes.length - before, 2);
  b.output(gradient);
  const session = await engine.load(b.build("seeds"));
  const feeds = new Map([["other", double([2], [5, 6])]]);
  t.same([...((await session.run(feeds)).get(gradient.name)?.data ?? [])], [35, 12]);
});

t.test("gradients that do not exist are refused", async (t) => {
  const b = graphBuilder();
  const x = b.input("x", "float32", [2, 3]);
  const row = b.input("row", "float32", [3]);
  const unused = b.input("unused", "float32", [2]);
  const [y, mean] = b.apply("LayerNormalization", [x, row, row], { epsilon: 1e-5 }) as Value[];
  const whole = b.op("Cast", [x], { to: "int64" });
  const back = b.op("Cast", [whole], { to: "float32" });
  const seed = (value: Value) => ({ value, gradient: b.constant(float32(value.shape)) });
  const undefinedGradient = { code: "GRADIENT_UNDEFINED" };
  t.throws(() => gradients(b, [seed(y as Value)], [unused]), undefinedGradient);
  t.throws(() => gradients(b, [seed(mean as Value)], [x]), undefinedGradient);
  t.throws(() => gradients(b, [seed(back)], [x]), undefinedGradient, "whole numbers are steps");
  const both = [seed(y as Value), seed(mean as Value)];
  t.throws(() => gradients(b, both, [x]), undefinedGradient, "a part of it would be missing");
  t.throws(() => gradients(b, [seed(x), seed(whole)], [x]), undefinedGradient);
  const labels = b.input("labels", "int64", [2]);
  const asFloats = b.op("Cast", [labels], { to: "float32" });
  t.throws(
    () => gradients(b, [seed(asFloats)], [labels]),
    { ...undefinedGradient, message: /labels int64\[2\]/ },
    "whole numbers do not move",
  );
  const misshapen = { value: y as Value, gradient: b.constant(float32([3, 2])) };
  t.throws(() => gradients(b, [misshapen], [x]), { code: "GRAPH_INVALID" });
});

const lora: LoraSettings = { rank: 2, alpha: 3, targets: ["c_attn", "mlp.c_proj"] };
const batch = 2;
const sequence = 5;

const heads: readonly (readonly [string, HeadSettings, Objective])[] = [
  ["a classifier", { kind: "classification", classes: 3 }, { kind: "labels" }],
  ["a language model", { kind: "lm" }, { kind: "labels" }],
  [
    "a student of a teacher",
    { kind: "classification", classes: 3 },
    { kind: "teacher", temperature: 2 },
  ],
];
for (const [title, head, objective] of heads) {
  t.test(`the step of ${title} gives the slope of its loss in every parameter`, async (t) => {
    const spec: ModelSpec = { model, lora, head, batch, sequence };
    const graph = stepGraph(spec, { objective });
    const random = randomStream("parameters", title);
    const parameters = new Map(
      [...parameterShapes(model.config, lora, head)].map(([name, shape]) => [
        name,
        double(shape, drawNormals(elementCount(shape), random, 0.5)),
      ]),
    );
    t.equal(graph.gradients.size, parameters.size);
    await compareSlopes(t, graph, parameters, batchFeeds(head.kind === "lm" ? 10 : 2));
  });
}

// With a head of its own and grouped queries, and with a tied head and normalised queries and keys.
for (const golden of ["gpt2", "llama", "qwen3"]) {
  t.test(`pretraining gives the slope of the loss in every tensor of ${golden}`, async (t) => {
    const folder = join(packageRoot(), "tests", "goldens", golden);
    const model = await openBaseModel(folder, { cacheFolder });
    const graph = pretrainingGraph(model.config, { batch, sequence });
    const tensors = new Map(
      [...(await readBaseModelTensors(model))].map(([name, { shape, data }]) => [
        name,
        double(shape, data),
      ]),
    );
    t.equal(graph.gradients.size, tensors.size);
    await compareSlopes(t, graph, tensors, batchFeeds(10));
  });
}

/** Along a random direction in each tensor, the loss must rise as fast as the gradient says. */
async function compareSlopes(
  t: Test,
  { graph, loss = "", gradients: names }: StepGraph,
  parameters: ReadonlyMap<string, Float64Tensor>,
  batch: TensorBundle,
) {
  const session = await engine.load(graph);
  const declared = (bundle: TensorBundle) =>
    new Map([...bundle].filter(([name]) => isInput(session, name)));
  const lossWith = async (name: string, tensor: Float64Tensor) => {
    const feeds = declared(new Map<string, Tensor>([...batch, ...parameters, [name, tensor]]));
    return (await session.run(feeds, [loss])).get(loss)?.data[0] as number;
  };
  const analytic = await session.run(declared(new Map<string, Tensor>([...batch, ...parameters])));
  for (const [name, output] of names) {
    const { shape, data } = parameters.get(name) as Float64Tensor;
    const gradient = analytic.get(output)?.data as Float64Array;
    const direction = drawNormals(data.length, randomStream("direction", name), 1);
    const moved = (by: number) =>
      double(
        shape,
        data.map((value, i) => value + by * (direction[i] as number)),
      );
    const above = await lossWith(name, moved(step));
    const below = await lossWith(name, moved(-step));
    const slope = (above - below) / (2 * step);
    const expected = gradient.reduce((sum, value, i) => sum + value * (direction[i] as number), 0);
    // A direction over hundreds of elements makes third derivatives of about 1e4: 1e-10 * 1e4.
    const error = Math.abs(slope - expected) / (1 + Math.abs(slope));
    t.ok(error < 1e-6, `${name}: slope ${slope}, gradient ${expected}`);
    t.ok(Math.abs(slope) > 1e-6, `${name}: a slope to see`);
  }
}

function batchFeeds(labels: number): TensorBundle {
  const random = randomStream("batch");
  const tokens = Array.from({ length: batch * sequence }, () => random.below(40));
  return new Map<string, Tensor>([
    ["input_ids", int64([batch, sequence], tokens)],
    ["attention_mask", int64([batch, sequence], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0])],
    ["pooling", float32([batch, sequence], [0, 0, 0, 0, 1, 0, 0, 1, 0, 0])],
    ["labels", int64([labels], labels === 2 ? [2, 0] : tokens)],
    ["weights", float32([labels], new Array(labels).fill(1 / labels))],
    ["teacher", float32([2, 3], [0.5, 0.25, 0.25, 0.125, 0.125, 0.75])],
  ]);
}

function isInput(session: Session, name: string): boolean {
  return session.graph.inputs.some((input) => input.name === name);
}

function drawNormals(count: number, random: { normal(): number }, deviation: number): number[] {
  return Array.from({ length: count }, () => deviation * random.normal());
}

function double(shape: readonly number[], data: ArrayLike<number>): Float64Tensor {
  return { dtype: "float64", shape, data: Float64Array.from(data) };
}
