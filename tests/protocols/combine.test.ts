// The aggregators beside the mean, norm clipping, and the memory they may take. Numbers by hand or from a plain rerun of the papers' lines.
import fc from "fast-check";
import t from "tap";
import {
  type AggregationOptions,
  aggregators,
  bufferedMean,
  openAggregation,
  requireAggregationMemory,
  stalenessWeight,
  weightedMean,
} from "../../protocols/aggregation/index.ts";
import { taskSchema } from "../../protocols/index.ts";
import type { Contribution } from "../../protocols/protocol.ts";
import { float32, type Parameters, randomStream } from "../../runtime/index.ts";

type Values = Readonly<Record<string, readonly number[]>>;

const head = { kind: "classification", labels: ["a", "b"] };
const options = (aggregation: Readonly<Record<string, unknown>> = {}): AggregationOptions =>
  taskSchema.parse({ name: "combine", head, aggregation }).aggregation;

const bundle = (values: Values): Parameters =>
  new Map(Object.entries(values).map(([name, data]) => [name, float32([data.length], data)]));

const contribution = (deviceId: string, values: Values, weight = 1): Contribution => ({
  kind: "contribution",
  deviceId,
  weight,
  update: bundle(values),
});

/** One device for each value of x, named in order. */
const each = (...xs: readonly number[]) =>
  xs.map((x, i) => contribution(`device-${i}`, { x: [x] }, i + 1));

const combined = (settings: AggregationOptions, contributions: readonly Contribution[]) => {
  const accumulator = openAggregation(settings);
  for (const one of contributions) accumulator.add(one);
  return plain(accumulator.finish());
};

const plain = (parameters: Parameters): Record<string, number[]> =>
  Object.fromEntries([...parameters].map(([name, { data }]) => [name, [...data]]));

t.test("the mean of the table is the weighted mean", async (t) => {
  t.same(combined(options(), each(1, 4)), plain(weightedMean(each(1, 4))));
});

t.test("a trimmed mean drops both ends of each value and counts devices alike", async (t) => {
  const settings = options({ combine: "trimmedMean", trimFraction: 0.2 });
  t.same(combined(settings, each(2, 1000, 3, -1000, 4)), { x: [3] });
  const two = [
    contribution("a", { x: [1, 30] }),
    contribution("b", { x: [2, 20] }),
    contribution("c", { x: [6, 10] }),
  ];
  t.same(combined(settings, two), { x: [2, 20] }, "ceil(0.2 * 3) = 1 at each end");
});

t.test("a trimmed mean always leaves something", async (t) => {
  const half = options({ combine: "trimmedMean", trimFraction: 0.5 });
  t.same(combined(half, each(7)), { x: [7] });
  t.same(combined(half, each(1, 4)), { x: [2.5] });
  t.same(combined(half, each(1, 2, 90)), { x: [2] }, "half is the median");
  const none = options({ combine: "trimmedMean", trimFraction: 0 });
  t.same(combined(none, each(1, 2, 90)), { x: [31] }, "nothing is the mean");
});

t.test("a median is the value in the middle, or between the two", async (t) => {
  const settings = options({ combine: "median" });
  t.same(combined(settings, each(5, -100, 1)), { x: [1] });
  t.same(combined(settings, each(5, -100, 1, 1e9)), { x: [3] });
});

t.test("value by value, ranks and tensors count over their holders", async (t) => {
  const [a, b] = ["h.0.lora_A.weight", "h.0.lora_B.weight"];
  const ranked = (deviceId: string, rows: number[], columns: number[][]): Contribution => ({
    kind: "contribution",
    deviceId,
    weight: 1,
    update: new Map([
      [a, float32([rows.length, 1], rows)],
      [b, float32([2, rows.length], columns.flat())],
    ]),
  });
  const settings = options({ combine: "median" });
  const all = [
    ranked("a", [1], [[10], [20]]),
    ranked(
      "b",
      [3, 8],
      [
        [30, 5],
        [40, 6],
      ],
    ),
    ranked(
      "c",
      [5, 2],
      [
        [50, 7],
        [60, 8],
      ],
    ),
    contribution("d", { score: [4] }),
  ];
  t.same(combined(settings, all), { [a]: [3, 5], [b]: [30, 6, 40, 7], score: [4] });
});

t.test("no minority within the trimmed share moves a value beyond the others'", async (t) => {
  const value = fc.float({ noNaN: true, noDefaultInfinity: true });
  const cases = fc.tuple(fc.array(value, { minLength: 3, maxLength: 6 }), value, value);
  for (const settings of [
    options({ combine: "median" }),
    options({ combine: "trimmedMean", trimFraction: 0.4 }),
  ]) {
    fc.assert(
      fc.property(cases, ([honest, one, two]) => {
        const [x = Number.NaN] = combined(settings, each(one, ...honest, two))["x"] ?? [];
        t.ok(x >= Math.min(...honest) && x <= Math.max(...honest));
      }),
    );
  }
});

t.test("krum takes the update with the nearest neighbours", async (t) => {
  const settings = options({ combine: "krum", byzantine: 1 });
  // Two nearest of five: 0: 1 + 2.25; 1: 0.25 + 1; 1.5: 0.25 + 0.49; 2.2: 0.49 + 1.44.
  t.same(combined(settings, each(0, 1, 1.5, 2.2, 100)), { x: [1.5] });
  t.same(combined(settings, each(3, 3, 3, 3, 3)), { x: [3] }, "equal ones are at distance zero");
});

t.test("krum's distances count tensors alike, whatever their magnitude", async (t) => {
  const random = randomStream("combine", "krum");
  const draw = (scale: number) => Array.from({ length: 3 }, () => scale * random.normal());
  const choices = new Set<string>();
  for (let trial = 0; trial < 30; trial++) {
    const all = Array.from({ length: 7 }, (_, i) =>
      contribution(`device-${i}`, { big: draw(1e4), small: draw(1e-4) }),
    );
    const expected = plain(krumByHand(all, 2));
    t.same(combined(options({ combine: "krum", byzantine: 2 }), all), expected);
    choices.add(JSON.stringify(expected["small"]));
    const scaled = all.map(({ deviceId, update }) =>
      contribution(deviceId, {
        ...plain(update),
        small: [...(update.get("small")?.data ?? [])].map((v) => v * 2 ** 20),
      }),
    );
    t.same(combined(options({ combine: "krum", byzantine: 2 }), scaled)["big"], expected["big"]);
  }
  t.ok(choices.size > 1);
});

t.test("krum takes no update of two devices that lie, alone or in league", async (t) => {
  const random = randomStream("combine", "lies");
  const honest = Array.from({ length: 5 }, () => [
    1 + 0.1 * random.normal(),
    random.normal() * 0.1,
  ]);
  for (const lies of [
    [
      [50, 50],
      [50, 50],
    ],
    [
      [1e30, 0],
      [-1e30, 3],
    ],
    [
      [0, 0],
      [-1, 0],
    ],
  ]) {
    const all = [...honest, ...lies].map((x, i) => contribution(`device-${i}`, { x }));
    const { x } = combined(options({ combine: "krum", byzantine: 2 }), all);
    t.ok(honest.some((values) => Math.fround(values[0] ?? 0) === x?.[0]));
  }
});

t.test("krum takes a device in two bundles for one", async (t) => {
  const settings = options({ combine: "krum" });
  const apart = [0, 1, 1.5, 2.2, 100].flatMap((x, i) => [
    contribution(`device-${i}`, { x: [x] }),
    contribution(`device-${i}`, { y: [1] }),
  ]);
  t.same(combined(settings, apart), { x: [1.5], y: [1] });
});

t.test("krum refuses too few devices, and devices that carry different tensors", async (t) => {
  const settings = options({ combine: "krum", byzantine: 2 });
  t.throws(() => combined(settings, each(1, 2, 3, 4, 5, 6)), {
    code: "AGGREGATION_TOO_FEW",
    message:
      /6 devices contributed, krum with 2 byzantine ones needs 7; kd devices contribute no update/,
  });
  const other = contribution("e", { y: [1] });
  t.throws(() => combined(settings, [...each(1, 2, 3, 4, 5, 6), other]), {
    code: "PROTOCOL_SHAPE_MISMATCH",
    message: /krum: device \S+: [xy]/,
  });
});

t.test(
  "an update above the maximum norm is scaled down to it, over all of its tensors",
  async (t) => {
    const settings = options({ maximumNorm: 1 });
    t.same(combined(settings, [contribution("a", { x: [3], y: [4, 0] })]), {
      x: [Math.fround(0.6)],
      y: [Math.fround(0.8), 0],
    });
    const within = contribution("a", { x: [0.1, -0.7] });
    t.same(combined(settings, [within]), plain(within.update), "no bit of a smaller one moves");
  },
);

t.test("clipping is for each device, before any aggregator", async (t) => {
  const mean = combined(options({ maximumNorm: 2 }), each(1, -1000, 2));
  t.same(mean, { x: [Math.fround((1 * 1 + 2 * -2 + 3 * 2) / 6)] });
  const median = options({ combine: "median", maximumNorm: 2 });
  t.same(combined(median, each(1, 1000)), { x: [1.5] });
  const mistaken = openAggregation(options({ maximumNorm: 2 }));
  t.throws(() => mistaken.add(contribution("a", { x: [1, Number.NaN] })), {
    code: "PROTOCOL_TENSOR_INVALID",
    message: /device a: x: value 1 of 2/,
  });
});

t.test("who needs all updates at once is refused above the task's memory", async (t) => {
  const shapes = new Map([
    ["x", [10, 5]],
    ["y", [25]],
  ]);
  const needed = 4 * 75 * 4;
  for (const combine of ["trimmedMean", "median", "krum"] as const) {
    t.equal(aggregators[combine].memory, "all");
    const settings = (memoryBytes: number) => options({ combine, memoryBytes });
    t.doesNotThrow(() => requireAggregationMemory(settings(needed), 4, shapes));
    t.throws(() => requireAggregationMemory(settings(needed - 1), 4, shapes), {
      code: "AGGREGATION_MEMORY_EXCEEDED",
      message: new RegExp(`4 devices: ${combine} needs .* ${needed} bytes; .* ${needed - 1}$`),
    });
    const accumulator = openAggregation(settings(8));
    accumulator.add(contribution("a", { x: [1] }));
    accumulator.add(contribution("b", { x: [1] }));
    t.throws(() => accumulator.add(contribution("c", { x: [1] })), {
      code: "AGGREGATION_MEMORY_EXCEEDED",
      message: /device c: .* 12 bytes/,
    });
  }
  t.doesNotThrow(() => requireAggregationMemory(options({ memoryBytes: 1 }), 1000, shapes));
  t.throws(
    () => requireAggregationMemory(options({ method: "stack", memoryBytes: 1 }), 2, shapes),
    {
      code: "AGGREGATION_MEMORY_EXCEEDED",
      message: /stack needs/,
    },
  );
});

t.test("every aggregator refuses what the mean refuses", async (t) => {
  for (const combine of ["mean", "trimmedMean", "median", "krum"]) {
    const accumulator = openAggregation(options({ combine }));
    accumulator.add(contribution("b", { x: [1] }));
    const add = (values: Values, deviceId = "c", weight = 1) =>
      t.throws(() => accumulator.add(contribution(deviceId, values, weight)), { code: /\w/ });
    add({ x: [1] }, "a");
    add({ x: [1] }, "b");
    add({ x: [1, 2] });
    add({ x: [Number.POSITIVE_INFINITY] });
    add({ x: [1] }, "c", 0);
  }
});

t.test("a buffer counts an update less the older its start was", async (t) => {
  t.same([0, 3, 8].map(stalenessWeight), [1, 1 / 2, 1 / 3]);
  const stale = (deviceId: string, staleness: number, values: Values, weight = 1) => ({
    ...contribution(deviceId, values, weight),
    staleness,
  });
  const buffer = [stale("b", 3, { x: [8] }, 1000), stale("a", 0, { x: [2], y: [6] })];
  t.same(plain(bufferedMean(buffer)), { x: [(2 + 8 / 2) / 2], y: [6] });
  const fresh = [stale("a", 0, { x: [2] }), stale("a", 0, { x: [4] })];
  t.same(plain(bufferedMean(fresh)), { x: [3] }, "a quick device twice");
  t.same(plain(bufferedMean(fresh, { maximumNorm: 3 })), { x: [2.5] });
  t.throws(() => bufferedMean([stale("a", 0, { x: [Number.NaN] })]), {
    code: "PROTOCOL_TENSOR_INVALID",
  });
});

/** Blanchard et al., section 4, on concatenated values, each tensor divided by the median of its norms. */
function krumByHand(all: readonly Contribution[], byzantine: number): Parameters {
  const names = ["big", "small"];
  const norm = (values: readonly number[]) => Math.hypot(...values);
  const medians = names.map((name) => {
    const norms = all.map(({ update }) => norm([...(update.get(name)?.data ?? [])]));
    return norms.sort((a, b) => a - b)[(all.length - 1) / 2] as number;
  });
  const vectors = all.map(({ update }) =>
    names.flatMap((name, i) =>
      [...(update.get(name)?.data ?? [])].map((v) => v / (medians[i] as number)),
    ),
  );
  const scores = vectors.map((from, i) => {
    const squares = vectors
      .filter((_, j) => j !== i)
      .map((to) => norm(from.map((value, k) => value - (to[k] as number))) ** 2)
      .sort((a, b) => a - b);
    return squares.slice(0, all.length - byzantine - 2).reduce((sum, square) => sum + square, 0);
  });
  return all[scores.indexOf(Math.min(...scores))]?.update ?? new Map();
}
