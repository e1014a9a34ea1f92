// The exact mean of the adapters' products and what ends a round. Every product is also formed densely in float64 here, which the code never does.
import t, { type Test } from "tap";
import {
  type AggregationOptions,
  aggregateBuffer,
  aggregateRound,
  applyUpdate,
  isTrained,
  leadingRanks,
  type ScaledContribution,
  stackRound,
  weightedMean,
} from "../../protocols/aggregation/index.ts";
import { taskSchema } from "../../protocols/index.ts";
import { type Float32Tensor, float32, type Parameters, randomStream } from "../../runtime/index.ts";
import { apart, combine, dominant, type Matrix } from "./matrices.ts";

const module = "base_model.model.h.0.attn.c_attn";
const [nameA, nameB] = [`${module}.lora_A.weight`, `${module}.lora_B.weight`];
const nameHead = "base_model.model.score.weight";
const head = { kind: "classification", labels: ["a", "b"] };
const options = (aggregation: Readonly<Record<string, unknown>> = {}): AggregationOptions =>
  taskSchema.parse({ name: "stack", head, aggregation }).aggregation;

function randomTensor(shape: readonly number[], scale: number, ...key: string[]): Float32Tensor {
  const random = randomStream("stack", ...key);
  return float32(
    shape,
    float32(shape).data.map(() => scale * random.normal()),
  );
}

interface Sizes {
  readonly inSize: number;
  readonly outSize: number;
  readonly rank: number;
}

function bundle({ inSize, outSize, rank }: Sizes, scale: number, key: string): Parameters {
  return new Map([
    [nameA, randomTensor([rank, inSize], scale, key, "A")],
    [nameB, randomTensor([outSize, rank], scale, key, "B")],
    [nameHead, randomTensor([2, 3], scale, key, "head")],
  ]);
}

const contribution = (
  deviceId: string,
  weight: number,
  update: Parameters,
  scale?: number,
): ScaledContribution => ({
  kind: "contribution",
  deviceId,
  weight,
  update,
  ...(scale === undefined ? {} : { scale }),
});

/** factor * B A, [out, in], in float64. */
function product(parameters: Parameters, factor = 1, ranks?: readonly number[]): Matrix {
  const [a, b] = [parameters.get(nameA), parameters.get(nameB)];
  const [rank = 0, inSize = 0] = a?.shape ?? [];
  const outSize = b?.shape[0] ?? 0;
  const counted = ranks ?? Array.from({ length: rank }, (_, k) => k);
  return Array.from({ length: outSize }, (_, i) =>
    Array.from({ length: inSize }, (__, j) =>
      counted.reduce(
        (sum, k) => sum + factor * (b?.data[i * rank + k] ?? 0) * (a?.data[k * inSize + j] ?? 0),
        0,
      ),
    ),
  );
}

const added = (x: Parameters, y: Parameters): Parameters =>
  new Map(
    [...x].map(([name, { shape, data }]) => [
      name,
      float32(
        shape,
        data.map((v, i) => v + (y.get(name)?.data[i] ?? 0)),
      ),
    ]),
  );

/** A mean of rounded factors is 6e-8 from the exact one, each entry of a product twice that. */
const near = (t: Test, actual: Matrix, expected: Matrix, text: string) =>
  t.ok(apart(actual, expected) < 5e-7, `${text}: ${apart(actual, expected)}`);

t.test("the mean of the products is exact while the rank holds it", async (t) => {
  // The inner size is the rank, so no mean can have more.
  const sizes = { inSize: 4, outSize: 9, rank: 4 };
  const theta = bundle(sizes, 1, "theta");
  const updates = ["a", "b", "c"].map((id) => bundle(sizes, 0.3, id));
  const all = updates.map((update, i) => contribution(`device-${i}`, i + 1, update));
  const { parameters, truncation } = stackRound(theta, all, 2);
  const terms = updates.map(
    (update, i) => [(i + 1) / 6, product(added(theta, update), 2)] as const,
  );
  near(t, product(parameters, 2), combine(...terms), "mean(s B A)");
  t.ok((truncation.get(module) ?? 1) < 1e-7);
  const plain = added(theta, weightedMean(all));
  t.ok(apart(product(plain, 2), combine(...terms)) > 0.01, "which the mean of the factors is not");
});

t.test("what the rank cannot hold is reported, and is the least possible", async (t) => {
  const sizes = { inSize: 11, outSize: 7, rank: 2 };
  const theta = bundle(sizes, 1, "theta");
  const updates = ["a", "b"].map((id) => bundle(sizes, 1, id));
  const all = updates.map((update, i) => contribution(`device-${i}`, 1, update));
  const { parameters, truncation } = stackRound(theta, all, 0.5);
  const exact = combine(
    ...updates.map((update) => [0.5, product(added(theta, update), 0.5)] as const),
  );
  const kept = product(parameters, 0.5);
  const reported = truncation.get(module) ?? 0;
  t.ok(Math.abs(apart(kept, exact) - reported) < 1e-6, `${reported}`);
  t.ok(reported > 0.05);
  // Eckart and Young: no matrix of rank 2 is nearer than the two largest singular triples, here by power iteration.
  const best = combine(
    [1, dominant(exact)],
    [1, dominant(combine([1, exact], [-1, dominant(exact)]))],
  );
  near(t, kept, best, "the two largest");
});

t.test("new factors share the singular values evenly", async (t) => {
  const sizes = { inSize: 5, outSize: 6, rank: 3 };
  const all = [contribution("a", 1, bundle(sizes, 1, "a"))];
  const { parameters } = stackRound(bundle(sizes, 1, "theta"), all, 4);
  const [a, b] = [parameters.get(nameA), parameters.get(nameB)];
  for (let k = 0; k < 3; k++) {
    const row = Math.hypot(...(a?.data.subarray(k * 5, (k + 1) * 5) ?? []));
    const column = Math.hypot(...Array.from({ length: 6 }, (_, i) => b?.data[i * 3 + k] ?? 0));
    t.ok(Math.abs(row / column - 1) < 1e-6);
  }
});

t.test("a rank counts over its holders, and one that nobody holds stays", async (t) => {
  const sizes = { inSize: 6, outSize: 6, rank: 6 };
  const theta = bundle(sizes, 1, "theta");
  const [small, large] = [
    bundle({ ...sizes, rank: 2 }, 0.5, "small"),
    bundle({ ...sizes, rank: 4 }, 0.5, "large"),
  ];
  const all = [contribution("a", 3, small), contribution("b", 1, large)];
  const { parameters } = stackRound(theta, all, 1);
  const [after, before] = [
    added(leadingRanks(theta, 2), small),
    added(leadingRanks(theta, 4), large),
  ];
  const expected = combine(
    [3 / 4, product(after, 1, [0, 1])],
    [1 / 4, product(before, 1, [0, 1])],
    [1, product(before, 1, [2, 3])],
    [1, product(theta, 1, [4, 5])],
  );
  near(t, product(parameters), expected, "by rank");
});

t.test("devices with scales of their own count as their models do", async (t) => {
  const sizes = { inSize: 6, outSize: 6, rank: 6 };
  const theta = bundle(sizes, 1, "theta");
  const [s, own] = [2, 8];
  const start = leadingRanks(theta, 3, Math.sqrt(s / own));
  near(t, product(start, own), product(leadingRanks(theta, 3), s), "the same start");
  const [small, large] = [bundle({ ...sizes, rank: 3 }, 0.2, "small"), bundle(sizes, 0.2, "large")];
  const all = [contribution("a", 1, small, own), contribution("b", 1, large)];
  const { parameters } = stackRound(theta, all, s);
  const expected = combine(
    [1 / 2, product(added(start, small), own)],
    [1 / 2, product(added(theta, large), s, [0, 1, 2])],
    [1, product(added(theta, large), s, [3, 4, 5])],
  );
  near(t, product(parameters, s), expected, "s_i B_i A_i");
});

t.test("the head is averaged, and a layer that nobody carried stays", async (t) => {
  const theta = bundle({ inSize: 4, outSize: 4, rank: 2 }, 1, "theta");
  const heads = ["a", "b"].map((id) =>
    contribution(id, id === "a" ? 1 : 3, new Map([[nameHead, randomTensor([2, 3], 1, id)]])),
  );
  const { parameters, truncation } = stackRound(theta, heads, 1);
  t.same(parameters.get(nameHead), added(theta, weightedMean(heads)).get(nameHead));
  t.equal(parameters.get(nameA), theta.get(nameA));
  t.equal(truncation.size, 0);
  t.same(stackRound(theta, [], 1).parameters, theta);
});

t.test("ranks that the mean does not need can still learn", async (t) => {
  const sizes = { inSize: 5, outSize: 6, rank: 3 };
  const theta = new Map(bundle(sizes, 1, "theta")).set(nameB, float32([6, 3]));
  const still = new Map([...theta].map(([name, { shape }]) => [name, float32(shape)]));
  const unmoved = stackRound(theta, [contribution("a", 1, still)], 2);
  t.same(unmoved.parameters, theta, "no device moved: theta at its start");
  t.equal(unmoved.truncation.get(module), 0);
  const one = new Map(still).set(
    nameB,
    float32(
      [6, 3],
      Array.from({ length: 18 }, (_, i) => Number(i % 3 === 0)),
    ),
  );
  const { parameters } = stackRound(theta, [contribution("a", 1, one)], 2);
  near(t, product(parameters, 2), product(added(theta, one), 2), "one rank is used");
  const rows = (tensor: Float32Tensor | undefined) => [...(tensor?.data.subarray(5) ?? [])];
  t.same(rows(parameters.get(nameA)), rows(theta.get(nameA)), "the rows of the others stay");
});

t.test("the order of arrival changes no bit", async (t) => {
  const sizes = { inSize: 5, outSize: 6, rank: 3 };
  const theta = bundle(sizes, 1, "theta");
  const all = ["a", "b", "c"].map((id) => contribution(id, 2, bundle(sizes, 1, id)));
  t.same(stackRound(theta, [...all].reverse(), 1), stackRound(theta, all, 1));
});

t.test("one factor without the other, and factors that do not fit, are refused", async (t) => {
  const sizes = { inSize: 4, outSize: 5, rank: 3 };
  const theta = bundle(sizes, 1, "theta");
  const refused = (a: Float32Tensor, b: Float32Tensor | undefined, message: RegExp) => {
    const update = new Map(
      b
        ? [
            [nameA, a],
            [nameB, b],
          ]
        : [[nameA, a]],
    );
    t.throws(() => stackRound(theta, [contribution("a", 1, update)], 1), {
      code: "PROTOCOL_SHAPE_MISMATCH",
      message,
    });
  };
  refused(float32([3, 4]), undefined, /device a: .*lora_B\.weight is missing/);
  refused(
    float32([3, 5]),
    float32([5, 3]),
    /device a: .*lora_A.*got shape \[3, 5\], expected shape \[3, 4\]/,
  );
  refused(
    float32([2, 4]),
    float32([5, 3]),
    /device a: .*lora_B.*got shape \[5, 3\], expected shape \[5, 2\]/,
  );
  refused(
    float32([4, 4]),
    float32([5, 4]),
    /device a: .*lora_A.*got shape \[4, 4\], expected shape \[3, 4\]/,
  );
});

t.test("at the defaults a round is theta and the mean, bit for bit", async (t) => {
  const sizes = { inSize: 5, outSize: 6, rank: 3 };
  const parameters = bundle(sizes, 1, "theta");
  const all = ["a", "b", "c"].map((id, i) => contribution(id, i + 1, bundle(sizes, 0.1, id)));
  const round = aggregateRound({ options: options(), parameters, scale: 2 }, all);
  t.same(round.parameters, applyUpdate(parameters, weightedMean(all)));
  t.equal(round.state.size, 0);
  t.equal(round.truncation.size, 0);
});

t.test("a round without contributions leaves parameters and state as they are", async (t) => {
  const parameters = bundle({ inSize: 5, outSize: 6, rank: 3 }, 1, "theta");
  const state = new Map([["momentum/x", float32([1], [3])]]);
  for (const settings of [
    options(),
    options({ optimizer: { kind: "fedavgm" } }),
    options({ combine: "krum" }),
    options({ method: "stack" }),
  ]) {
    const round = aggregateRound({ options: settings, parameters, state, scale: 2 }, []);
    t.same(round.parameters, parameters);
    t.equal(round.state, state);
  }
});

t.test("the server's optimizer and the aggregator of a task shape its rounds", async (t) => {
  const parameters = new Map([["x", float32([1], [0])]]);
  const all = [1, 2, 9].map((x, i) =>
    contribution(`device-${i}`, 1, new Map([["x", float32([1], [x])]])),
  );
  const settings = options({ combine: "median", optimizer: { kind: "fedavgm", momentum: 0.5 } });
  const first = aggregateRound({ options: settings, parameters, scale: 1 }, all);
  t.same(first.parameters, new Map([["x", float32([1], [2])]]));
  const second = aggregateRound({ options: settings, ...first, scale: 1 }, all);
  t.same(second.parameters, new Map([["x", float32([1], [2 + 1 + 2])]]));
});

t.test("a filled buffer counts by staleness and goes through the same optimizer", async (t) => {
  const x = (value: number) => new Map([["x", float32([1], [value])]]);
  const buffer = [
    { ...contribution("a", 900, x(2)), staleness: 0 },
    { ...contribution("b", 1, x(8)), staleness: 3 },
  ];
  const settings = options({ optimizer: { kind: "fedavgm", momentum: 0.5 }, maximumNorm: 6 });
  const start = { options: settings, parameters: x(1), scale: 1 };
  const first = aggregateBuffer(start, buffer);
  t.same(first.parameters, x(1 + (2 + 6 / 2) / 2));
  t.same(aggregateBuffer({ ...start, ...first }, buffer).parameters, x(3.5 + 0.5 * 2.5 + 2.5));
  t.same(aggregateBuffer(start, []).parameters, x(1));
});

t.test("stack clips updates and keeps to the task's memory", async (t) => {
  const sizes = { inSize: 4, outSize: 4, rank: 4 };
  const parameters = bundle(sizes, 1, "theta");
  const all = [contribution("a", 1, bundle(sizes, 5, "a"))];
  const clipped = options({ method: "stack", maximumNorm: 1e-9 });
  const round = aggregateRound({ options: clipped, parameters, scale: 1 }, all);
  near(t, product(round.parameters), product(parameters), "a tiny update hardly moves");
  const tight = options({ method: "stack", memoryBytes: 100 });
  t.throws(() => aggregateRound({ options: tight, parameters, scale: 1 }, all), {
    code: "AGGREGATION_MEMORY_EXCEEDED",
    message: /device a: stack needs/,
  });
});

t.test(
  "ffa trains all but A, and then the mean of the factors is that of the products",
  async (t) => {
    const settings = options({ method: "ffa" });
    t.same(
      [nameA, nameB, nameHead].map((name) => isTrained(settings, name)),
      [false, true, true],
    );
    for (const method of ["fedavg", "stack"]) t.ok(isTrained(options({ method }), nameA));
    const sizes = { inSize: 8, outSize: 9, rank: 3 };
    const parameters = bundle(sizes, 1, "theta");
    const updates = ["a", "b", "c"].map((id) => {
      const update = new Map(bundle(sizes, 0.5, id));
      update.delete(nameA);
      return update;
    });
    const all = updates.map((update, i) => contribution(`device-${i}`, i + 1, update));
    const round = aggregateRound({ options: settings, parameters, scale: 2 }, all);
    const terms = updates.map(
      (update, i) => [(i + 1) / 6, product(added(parameters, update), 2)] as const,
    );
    near(t, product(round.parameters, 2), combine(...terms), "mean(s B A)");
    t.equal(round.parameters.get(nameA), parameters.get(nameA));
    const whole = [contribution("a", 1, bundle(sizes, 1, "a"))];
    t.throws(() => aggregateRound({ options: settings, parameters, scale: 2 }, whole), {
      code: "PROTOCOL_SHAPE_MISMATCH",
      message: /device a: .*lora_A\.weight is not trained with the method ffa/,
    });
  },
);
