// The weighted mean that full and split contributions enter alike.
import fc from "fast-check";
import t from "tap";
import {
  applyUpdate,
  leadingRanks,
  loraOfRank,
  meanAccumulator,
  weightedMean,
} from "../../protocols/aggregation/index.ts";
import type { Contribution } from "../../protocols/protocol.ts";
import { float32, loraScale, type Parameters, randomStream } from "../../runtime/index.ts";

type Values = Readonly<Record<string, readonly number[]>>;

function contribution(deviceId: string, weight: number, values: Values): Contribution {
  const update = new Map(
    Object.entries(values).map(([name, data]) => [name, float32([data.length], data)]),
  );
  return { kind: "contribution", deviceId, weight, update };
}

const plain = (parameters: Parameters): Record<string, number[]> =>
  Object.fromEntries([...parameters].map(([name, { data }]) => [name, [...data]]));

t.test("each update counts as many times as its weight says", async (t) => {
  const mean = weightedMean([
    contribution("a", 1, { x: [1, 10] }),
    contribution("b", 3, { x: [5, -10] }),
  ]);
  t.same(plain(mean), { x: [4, -5] });
});

t.test(
  "a tensor is averaged over the devices that carry it, and absent when none does",
  async (t) => {
    const mean = weightedMean([
      contribution("a", 1, { front: [2], tail: [8] }),
      contribution("b", 3, { front: [6] }),
    ]);
    t.same(plain(mean), { front: [5], tail: [8] });
    t.same(plain(weightedMean([])), {});
  },
);

t.test("one contribution is its own mean, bit for bit", async (t) => {
  const values = fc.float({ noNaN: true, noDefaultInfinity: true });
  const weights = fc.double({ min: 1e-3, max: 1e6, noNaN: true });
  fc.assert(
    fc.property(fc.array(values, { maxLength: 20 }), weights, (x, weight) => {
      const { data } = weightedMean([contribution("a", weight, { x })]).get("x") ?? float32([0]);
      // Sums start at +0, so only the sign of a zero may change.
      t.same(
        [...data],
        x.map((value) => value + 0),
      );
    }),
  );
});

t.test("the order of arrival changes no bit", async (t) => {
  const random = randomStream("arrival");
  const all = Array.from({ length: 7 }, (_, i) => {
    const x = Array.from({ length: 50 }, () => random.normal() * 10 ** random.below(12));
    return contribution(`device-${i * 5}`, 1 + random.below(1000), { x });
  });
  const expected = plain(weightedMean(all));
  for (let i = 0; i < 10; i++) t.same(plain(weightedMean(random.shuffle(all))), expected);
});

t.test("front and tail count alike in one bundle or in two", async (t) => {
  const full = contribution("a", 7, { front: [0.1, 0.2], tail: [0.3] });
  const merged = contribution("b", 0.3, { front: [0.7, 1e-9], tail: [1e9] });
  const apart = [
    contribution("b", 0.3, { tail: [1e9] }),
    contribution("b", 0.3, { front: [0.7, 1e-9] }),
  ];
  t.same(plain(weightedMean([full, ...apart])), plain(weightedMean([full, merged])));
});

t.test("a float64 sum keeps what float32 would lose", async (t) => {
  const mean = weightedMean([
    contribution("a", 1, { x: [2 ** 24] }),
    contribution("b", 1, { x: [1] }),
    contribution("c", 1, { x: [-(2 ** 24)] }),
  ]);
  t.same(plain(mean), { x: [Math.fround(1 / 3)] });
});

t.test("the stream refuses what is out of device-id order or double", async (t) => {
  const mean = meanAccumulator();
  mean.add(contribution("device-10", 1, { x: [1] }));
  mean.add(contribution("device-9", 1, { x: [3] }));
  t.throws(() => mean.add(contribution("device-1", 1, { x: [1] })), {
    code: "AGGREGATION_ORDER_INVALID",
    message: /device-1 came after that of device-9/,
  });
  t.throws(() => mean.add(contribution("device-9", 1, { x: [1] })), {
    code: "AGGREGATION_ORDER_INVALID",
    message: /carries x a second time/,
  });
  t.same(plain(mean.finish()), { x: [2] }, "what was refused left no trace");
});

t.test("a weight that is no count of examples is refused", async (t) => {
  for (const weight of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60]) {
    t.throws(() => weightedMean([contribution("a", weight, { x: [1] })]), {
      code: "PROTOCOL_WEIGHT_INVALID",
      message: new RegExp(`device a: weight ${String(weight).replace("+", "\\+")}`),
    });
  }
});

t.test("a tensor that does not fit or is not finite is refused whole", async (t) => {
  const mean = meanAccumulator();
  mean.add(contribution("a", 1, { x: [1, 2], y: [1] }));
  t.throws(() => mean.add(contribution("b", 1, { x: [9, 9], y: [1, 2] })), {
    code: "PROTOCOL_SHAPE_MISMATCH",
    message: /device b: y: got shape \[2\], expected shape \[1\]/,
  });
  t.throws(() => mean.add(contribution("b", 1, { x: [9, Number.NaN] })), {
    code: "PROTOCOL_TENSOR_INVALID",
    message: /device b: x: value 1 of 2/,
  });
  t.same(plain(mean.finish()), { x: [1, 2], y: [1] });
});

t.test("applying an update adds it and leaves the inputs alone", async (t) => {
  const { update: theta } = contribution("", 1, { x: [1, 2], y: [5] });
  const { update } = contribution("", 1, { x: [0.5, -2] });
  const next = applyUpdate(theta, update);
  t.same(plain(next), { x: [1.5, 0], y: [5] });
  t.same(plain(theta), { x: [1, 2], y: [5] });
});

t.test("an update for unknown or misshapen parameters is refused, names listed", async (t) => {
  const { update: theta } = contribution("", 1, { x: [1, 2], y: [3e38] });
  const update = (values: Values) => contribution("", 1, values).update;
  t.throws(() => applyUpdate(theta, update({ z: [1] })), {
    code: "PROTOCOL_SHAPE_MISMATCH",
    message: /update of z.*there are x, y/,
  });
  t.throws(() => applyUpdate(theta, update({ x: [1] })), { code: "PROTOCOL_SHAPE_MISMATCH" });
  t.throws(() => applyUpdate(theta, update({ y: [3e38] })), { code: "PROTOCOL_TENSOR_INVALID" });
});

const [factorA, factorB] = ["h.0.lora_A.weight", "h.0.lora_B.weight"];

/** A contribution of [rank, 2] and [2, rank], given row by row. */
function ofRank(deviceId: string, weight: number, a: number[][], b: number[][]): Contribution {
  const update = new Map([
    [factorA, float32([a.length, 2], a.flat())],
    [factorB, float32([2, a.length], b.flat())],
  ]);
  return { kind: "contribution", deviceId, weight, update };
}

t.test(
  "a rank is averaged over the devices that hold it, in whatever order they come",
  async (t) => {
    const small = (id: string) => ofRank(id, 1, [[2, 4]], [[10], [20]]);
    const large = (id: string) =>
      ofRank(
        id,
        3,
        [
          [6, 0],
          [7, 9],
        ],
        [
          [30, 1],
          [40, 2],
        ],
      );
    for (const all of [
      [small("a"), large("b")],
      [large("a"), small("b")],
    ]) {
      const mean = weightedMean(all);
      t.same(mean.get(factorA), float32([2, 2], [5, 1, 7, 9]));
      t.same(mean.get(factorB), float32([2, 2], [25, 1, 35, 2]));
    }
  },
);

t.test("a rank that nobody holds stays where it was", async (t) => {
  const theta = ofRank(
    "",
    1,
    [
      [1, 2],
      [3, 4],
    ],
    [
      [5, 6],
      [7, 8],
    ],
  ).update;
  const next = applyUpdate(theta, weightedMean([ofRank("a", 2, [[1, 1]], [[10], [10]])]));
  t.same(next.get(factorA), float32([2, 2], [2, 3, 3, 4]));
  t.same(next.get(factorB), float32([2, 2], [15, 6, 17, 8]));
});

t.test("equal ranks give the bits of one sum for each value", async (t) => {
  const random = randomStream("ranks", "equal");
  const draw = () =>
    Array.from({ length: 6 }, () => Math.fround(random.normal() * 10 ** random.below(9)));
  const values = ["a", "b", "c"].map((deviceId) => ({
    deviceId,
    weight: random.next(),
    a: draw(),
    b: draw(),
  }));
  const mean = weightedMean(
    values.map(({ deviceId, weight, a, b }) => ({
      kind: "contribution",
      deviceId,
      weight,
      update: new Map([
        [factorA, float32([3, 2], a)],
        [factorB, float32([2, 3], b)],
      ]),
    })),
  );
  for (const [name, key] of [
    [factorA, "a"],
    [factorB, "b"],
  ] as const) {
    const expected = values[0]?.[key].map((_, i) => {
      let [sum, weights] = [0, 0];
      for (const value of values) {
        sum += value.weight * (value[key][i] as number);
        weights += value.weight;
      }
      return Math.fround(sum / weights);
    });
    t.same([...(mean.get(name)?.data ?? [])], expected);
  }
});

t.test("only the ranks of factors may differ", async (t) => {
  const mean = meanAccumulator();
  mean.add(ofRank("a", 1, [[1, 2]], [[3], [4]]));
  const update = new Map([[factorA, float32([1, 3])]]);
  t.throws(() => mean.add({ kind: "contribution", deviceId: "b", weight: 1, update }), {
    code: "PROTOCOL_SHAPE_MISMATCH",
    message: /device b: h\.0\.lora_A\.weight: got shape \[1, 3\], expected shape \[1, 2\]/,
  });
  const { update: theta } = ofRank("", 1, [[1, 2]], [[3], [4]]);
  const wider = ofRank(
    "",
    1,
    [
      [1, 2],
      [3, 4],
    ],
    [
      [3, 3],
      [4, 4],
    ],
  ).update;
  t.throws(() => applyUpdate(theta, wider), { code: "PROTOCOL_SHAPE_MISMATCH" });
});

t.test("a device of a lower rank starts with the leading ranks, at the same scale", async (t) => {
  const theta = new Map([
    ...ofRank(
      "",
      1,
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
    ).update,
    ["score", float32([2], [8, 9])] as const,
  ]);
  const leading = leadingRanks(theta, 2);
  t.same(leading.get(factorA), float32([2, 2], [1, 2, 3, 4]));
  t.same(leading.get(factorB), float32([2, 2], [1, 2, 4, 5]));
  t.equal(leading.get("score"), theta.get("score"));
  t.same(leadingRanks(theta, 3), theta);
  const stretched = leadingRanks(theta, 3, 2);
  t.same(stretched.get(factorB), float32([2, 3], [2, 4, 6, 8, 10, 12]));
  for (const rsLora of [false, true]) {
    const lora = { rank: 8, alpha: 10, targets: ["c_attn"], rsLora };
    // alpha is rounded once on the way, so the scale may move by a unit of its last place.
    const error = loraScale(loraOfRank(lora, 3)) / loraScale(lora) - 1;
    t.ok(Math.abs(error) < 4e-16);
    t.same(loraOfRank(lora, 8), lora);
  }
});
