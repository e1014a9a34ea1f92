// What kd devices and the coordinator learn from: which texts a round speaks of, and how voices become one teacher.
import fc from "fast-check";
import t from "tap";
import { type Task, taskSchema } from "../../protocols/index.ts";
import {
  type Aggregation,
  aggregations,
  distributionOf,
  mix,
  type Standing,
} from "../../protocols/kd/aggregation.ts";
import { publicSlice } from "../../protocols/kd/public-slice.ts";
import { keepCounts, rankRow } from "../../protocols/kd/sparse-logits.ts";
import type { Example } from "../../runtime/index.ts";

const taskOf = (kd: object, seed = 7) =>
  taskSchema.parse({
    name: "toy",
    seed,
    head: { kind: "classification", labels: ["a", "b"] },
    kd,
  }) as Task;

/** Logits of one text of which `kept` travel. */
function rowOf(logits: readonly number[], kept: number, temperature = 1) {
  const rows = [rankRow(Float32Array.from(logits), logits.length, temperature)];
  return {
    logits: keepCounts({ classes: logits.length, temperature, rows }, [kept]),
    row: 0,
    temperature,
  };
}

function distribution(
  logits: readonly number[],
  kept: number,
  options: { temperature?: number; shape?: Float64Array } = {},
) {
  const { temperature = 1, shape } = options;
  const into = new Float64Array(logits.length);
  distributionOf(rowOf(logits, kept, temperature), into, shape);
  return [...into];
}

function mixed(
  aggregation: Aggregation,
  standings: readonly Standing[],
  voices: readonly (readonly number[])[],
) {
  const into = new Float64Array(voices[0]?.length ?? 0);
  mix(
    aggregation,
    standings,
    voices.map((voice) => Float64Array.from(voice)),
    into,
  );
  return [...into];
}

const near = (actual: readonly number[], expected: readonly number[], tolerance = 1e-12) =>
  actual.length === expected.length &&
  actual.every((value, i) => Math.abs(value - (expected[i] as number)) <= tolerance);

const logs = (probabilities: readonly number[]) => probabilities.map(Math.log);

t.test("slices name every text equally often, none twice in a round", async (t) => {
  const texts = Array.from({ length: 10 }, (_, label): Example => ({ tokens: [], label }));
  for (const sliceSize of [1, 3, 4, 10]) {
    const task = taskOf({ sliceSize });
    const seen = new Array<number>(10).fill(0);
    // As many rounds as bring the ring back to its start.
    for (let round = 1; round <= 10; round++) {
      const slice = publicSlice(task, texts, round);
      t.equal(new Set(slice).size, sliceSize, "different texts");
      for (const { label } of slice) seen[label] = (seen[label] ?? 0) + 1;
    }
    t.same(seen, new Array(10).fill(sliceSize));
  }
  const of = (kd: object, seed: number, round: number) =>
    publicSlice(taskOf(kd, seed), texts, round).map(({ label }) => label);
  t.same(of({ sliceSize: 4 }, 7, 2), of({ sliceSize: 4 }, 7, 2), "both ends derive the same");
  t.notSame(
    of({ sliceSize: 4 }, 7, 1),
    of({ sliceSize: 4 }, 7, 2),
    "the next round speaks of others",
  );
  t.notSame(of({ sliceSize: 4 }, 7, 1), of({ sliceSize: 4 }, 8, 1), "another seed of others");
  t.equal(
    publicSlice(taskOf({}), texts, 3),
    texts,
    "without a size all are spoken of in their order",
  );
  t.equal(publicSlice(taskOf({ sliceSize: 11 }), texts, 3), texts);
});

t.test("what was dropped keeps its mass, spread evenly or as the student has it", async (t) => {
  const logits = logs([0.5, 0.1, 0.1, 0.3]);
  // float32 logits are within 1e-7.
  t.ok(near(distribution(logits, 4), [0.5, 0.1, 0.1, 0.3], 1e-7));
  t.ok(near(distribution(logits, 1), [0.5, 1 / 6, 1 / 6, 1 / 6], 1e-7));
  const shape = Float64Array.of(0.7, 0.1, 0.05, 0.15);
  t.ok(near(distribution(logits, 1, { shape }), [0.5, 1 / 6, 0.5 / 6, 0.25], 1e-7));
  // At temperature 2 the odds are roots: 3 : 1 : 1 : 2 of squares 9, 1, 1, 4.
  const warm = logs([9, 1, 1, 4]);
  t.ok(near(distribution(warm, 1, { temperature: 2 }), [3 / 7, 4 / 21, 4 / 21, 4 / 21], 1e-7));
  const sure = Float64Array.of(1, 0, 0, 0);
  t.ok(near(distribution(logits, 1, { shape: sure }), [0.5, 1 / 6, 1 / 6, 1 / 6], 1e-7), "no form");
});

t.test("voices that kept different numbers of classes have an unbiased mean", async (t) => {
  const voices = [
    distribution(logs([0.5, 0.3, 0.1, 0.1]), 1),
    distribution(logs([0.1, 0.2, 0.3, 0.4]), 3),
  ];
  // 0.5 and three sixths of what is left; all as they are, since a single dropped class has the rest to itself.
  const expected = [(0.5 + 0.1) / 2, (1 / 6 + 0.2) / 2, (1 / 6 + 0.3) / 2, (1 / 6 + 0.4) / 2];
  const mean = mixed("mean", [{ weight: 1 }, { weight: 1 }], voices);
  t.ok(near(mean, expected, 1e-7), `${mean} is ${expected}`);
  t.ok(Math.abs(mean.reduce((sum, p) => sum + p) - 1) < 1e-12, "no mass is lost, as zeros would");
});

t.test("each aggregation weighs voices as its formula says", async (t) => {
  const [sure, even] = [
    [0.9, 0.1],
    [0.5, 0.5],
  ];
  const standings = [{ weight: 3 }, { weight: 1 }];
  t.ok(near(mixed("mean", standings, [sure, even]), [0.8, 0.2]));
  t.ok(near(mixed("entropy", standings, [sure, even]), sure), "an even voice says nothing");
  const nats = -(0.9 * Math.log(0.9) + 0.1 * Math.log(0.1)) / Math.LN2;
  const less = -(0.6 * Math.log(0.6) + 0.4 * Math.log(0.4)) / Math.LN2;
  const [a, b] = [3 * (1 - nats), 1 * (1 - less)];
  t.ok(
    near(mixed("entropy", standings, [sure, [0.6, 0.4]]), [
      (a * 0.9 + b * 0.6) / (a + b),
      (a * 0.1 + b * 0.4) / (a + b),
    ]),
  );
  t.ok(
    near(mixed("confidence", standings, [sure, even]), [
      (2.7 * 0.9 + 0.5 * 0.5) / 3.2,
      (2.7 * 0.1 + 0.5 * 0.5) / 3.2,
    ]),
  );
  t.ok(
    near(mixed("entropy", standings, [even, even]), even),
    "voices that all say nothing count alike",
  );
});

t.test("per class a voice counts for what it knows", async (t) => {
  // One device has seen only the first two of three classes, the other only the last two.
  const standings = [
    { weight: 1, classShares: Float64Array.of(0.5, 0.5, 0) },
    { weight: 1, classShares: Float64Array.of(0, 0.5, 0.5) },
  ];
  const voices = [
    [0.7, 0.3, 0],
    [0, 0.4, 0.6],
  ];
  // The first class is the first voice's alone, the last the second's, the middle the mean of both; then back to a sum of 1.
  const parts = [0.7, 0.35, 0.6];
  const expected = parts.map((part) => part / 1.65);
  t.ok(near(mixed("perClass", standings, voices), expected));
});

t.test("voices that count alike give the weighted mean to the last bit", async () => {
  const probabilities = fc
    .array(fc.double({ min: 1e-3, max: 1, noNaN: true }), { minLength: 4, maxLength: 4 })
    .map((values) => values.map((value) => value / values.reduce((sum, part) => sum + part)));
  const cases = fc.tuple(
    fc.array(fc.integer({ min: 1, max: 1000 }), { minLength: 1, maxLength: 5 }),
    probabilities,
    fc.constantFrom(...aggregations),
  );
  fc.assert(
    fc.property(cases, ([weights, shares, aggregation]) => {
      // Turned distributions are as sure and as even as each other.
      const voices = weights.map((_, v) => shares.map((_, c) => shares[(c + v) % 4] as number));
      const standings = weights.map((weight) => ({
        weight,
        classShares: Float64Array.from(shares),
      }));
      const [actual, mean] = [aggregation, "mean" as const].map((kind) =>
        mixed(kind, standings, voices),
      );
      return aggregation === "entropy"
        ? // Sums in another order may differ in the last bit, and so may the entropies.
          near(actual ?? [], mean ?? [], 1e-14)
        : String(actual) === String(mean);
    }),
  );
});
