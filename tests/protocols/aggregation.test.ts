// The weighted mean that full and split contributions enter alike.
import fc from "fast-check";
import t from "tap";
import { applyUpdate, meanAccumulator, weightedMean } from "../../protocols/aggregation/index.ts";
import type { Contribution } from "../../protocols/protocol.ts";
import { float32, type Parameters, randomStream } from "../../runtime/index.ts";

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
