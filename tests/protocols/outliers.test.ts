// int8 with outliers apart: bytes by hand, a slow oracle, and what the option must leave alone.
import fc from "fast-check";
import t from "tap";
import {
  decodeTensor,
  encodedByteLength,
  encodeTensor,
  encodingNames,
} from "../../protocols/encoding/index.ts";
import type { Payload } from "../../protocols/index.ts";
import { float32, randomStream } from "../../runtime/index.ts";
import { openFederation } from "./loopback.ts";
import { openToy, toyExamples } from "./toy.ts";

// Channel 0 has one value beyond its others, channel 1 two equal ones, of which a quarter of four cannot take both.
const small = float32([4, 2], [1000, 254, 127, 254, -64, 0, 0, 0]);
const smallBytes = [
  [64 + 1],
  [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40], // scales 1 and 2
  [0, 127, 127, 127, 256 - 64, 0, 0, 0],
  [1, 0, 0, 0, 0x7a, 0x44], // one outlier: 1000 is 0x447a0000
  [0b001], // index 0 of 8: a one and two bits of remainder
].flat();

t.test("outliers follow scales and values: how many, bfloat16 values, indices", async (t) => {
  const encoded = encodeTensor(small, "int8", { axis: 1, outliers: 0.25 });
  t.same([...encoded.bytes], smallBytes);
  t.same(decodeTensor(encoded), small, "all of these values are exact");
  const whole = encodeTensor(small, "int8", { axis: "none", outliers: 0.25 }).bytes;
  t.equal(whole[0], 127, "one scale for all");
});

t.test("without a value to set apart the bytes are those without the option", async (t) => {
  for (const outliers of [0, 0.24]) {
    // 0.24 of four values is none.
    const encoded = encodeTensor(small, "int8", { axis: 1, outliers });
    t.same(encoded, encodeTensor(small, "int8", { axis: 1 }), `${outliers}`);
  }
  for (const encoding of encodingNames) {
    if (encoding === "int8") continue;
    t.same(
      encodeTensor(small, encoding, { outliers: 0.25 }),
      encodeTensor(small, encoding),
      encoding,
    );
  }
  for (const outliers of [-0.1, 0.26, Number.NaN]) {
    t.throws(() => encodeTensor(small, "int8", { outliers }), { message: /cannot be outliers/ });
  }
});

t.test(
  "ordinary values err by half a step of theirs, outliers by 2^-8 of themselves",
  async (t) => {
    const heavy = fc
      .tuple(fc.float({ noNaN: true, min: -1, max: 1 }), fc.constantFrom(1, 1, 1, 1, 50, 5000))
      .map(([value, factor]) => value * factor);
    const data = fc.array(heavy, { minLength: 60, maxLength: 60 });
    const shapes = fc.constantFrom([60], [6, 10], [2, 3, 10], [3, 2, 5, 2]);
    const axes = fc.constantFrom<0 | "none" | undefined>(0, "none", undefined);
    fc.assert(
      fc.property(data, shapes, axes, fc.double({ min: 0, max: 0.25, noNaN: true }), (...input) => {
        const [values, shape, given, outliers] = input;
        const fallback = shape.length < 2 ? "none" : shape.length === 2 ? 0 : shape.length - 1;
        const axis = given ?? fallback;
        const tensor = float32(shape, values);
        const encoded = encodeTensor(tensor, "int8", { axis, outliers });
        t.ok(encoded.bytes.length <= encodedByteLength(shape, "int8", { axis, outliers }));
        const back = decodeTensor(encoded).data;
        const limits = slowLimits(tensor.data, shape, axis, outliers);
        for (const [i, value] of tensor.data.entries()) {
          const limit = limits[i] ?? 0;
          // Half a step and the float32 rounding of scale and product; 2^-140 for scales that are subnormal.
          const step = (limit / 127) * (0.5 + 127 * 2 ** -22) + 2 ** -140;
          const bound = Math.abs(value) > limit ? Math.abs(value) * 2 ** -8 : step;
          t.ok(Math.abs(value - (back[i] ?? 0)) <= bound, `${value} came back as ${back[i]}`);
        }
      }),
    );
  },
);

t.test("first tokens a hundred times as large leave the others their precision", async (t) => {
  const [batch, seq, hidden] = [8, 40, 16];
  const random = randomStream("first tokens");
  const isFirst = (i: number) => Math.floor(i / hidden) % seq === 0;
  const data = Float32Array.from({ length: batch * seq * hidden }, (_, i) =>
    isFirst(i) ? 100 * random.normal() : random.normal(),
  );
  const rest = [...data.keys()].filter((i) => !isFirst(i));
  const worst = (outliers: number) => {
    const { data: back } = decodeTensor(
      encodeTensor(float32([batch, seq, hidden], data), "int8", { outliers }),
    );
    return Math.max(...rest.map((i) => Math.abs((back[i] ?? 0) - (data[i] ?? 0))));
  };
  // A fortieth of the tokens are first ones. What is left of a channel stays under 5, so half a step is under 5 / 254.
  t.ok(worst(1 / 40) < 5 / 254);
  t.ok(worst(0) > 20 * worst(1 / 40));
});

t.test("outliers that lie are refused", async (t) => {
  const refused = (what: string, bytes: readonly number[]) =>
    t.throws(
      () => decodeTensor({ shape: [4, 2], encoding: "int8", bytes: Uint8Array.from(bytes) }),
      { code: "PROTOCOL_TENSOR_INVALID", message: /int8 of shape \[4, 2\]/ },
      what,
    );
  const countAt = 17;
  refused("no outliers", smallBytes.slice(0, countAt));
  refused("a byte too few", smallBytes.slice(0, -1));
  refused("a byte too many", [...smallBytes, 0]);
  refused("outliers without the flag", [1, ...smallBytes.slice(1)]);
  refused("an axis that is not there", [64 + 2, ...smallBytes.slice(1)]);
  const withCount = (count: readonly number[]) => [
    ...smallBytes.slice(0, countAt),
    ...count,
    ...smallBytes.slice(countAt + 4),
  ];
  refused("more outliers than values", withCount([9, 0, 0, 0]));
  refused("a count beyond all memory", withCount([255, 255, 255, 255]));
  refused("an index beyond the shape", [...smallBytes.slice(0, -1), 0b10000]);
});

t.test(
  "split.outliers sets values apart in both directions of the cut, and nothing else",
  async (t) => {
    const toy = await openToy(t);
    const device = {
      id: "a",
      protocol: "split",
      cutLayer: 2,
      train: toyExamples("a", 13),
    } as const;
    const messagesWith = async (outliers: number, encoding: "int8" | "int4") => {
      const split = { activations: encoding, gradients: encoding, outliers };
      const federation = await openFederation(toy, toy.task({ split }), [device]);
      const { devices } = await federation.round(federation.start);
      await federation.close();
      return [...(devices.get("a")?.ups ?? []), ...(devices.get("a")?.downs ?? [])];
    };
    const kindsApart = (messages: readonly Payload[]) =>
      messages
        .filter(({ tensors }) =>
          [...tensors.values()].some(
            ({ encoding, bytes }) => encoding === "int8" && bytes[0] === 65,
          ),
        )
        .map(({ kind }) => kind);
    const [without, apart] = [await messagesWith(0, "int8"), await messagesWith(0.1, "int8")];
    t.same(kindsApart(without), []);
    t.same(kindsApart(apart), [...Array(4).fill("activations"), ...Array(4).fill("gradient")]);
    t.same(
      apart.map(({ kind }) => kind),
      without.map(({ kind }) => kind),
    );
    t.same(await messagesWith(0.1, "int4"), await messagesWith(0, "int4"), "int4 has no outliers");
  },
);

/** The largest magnitude that each value's channel has without its outliers, by sorting. */
function slowLimits(
  data: Float32Array,
  shape: readonly number[],
  axis: number | "none",
  outliers: number,
): readonly number[] {
  const inner = axis === "none" ? 1 : shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const channelOf = (i: number) =>
    axis === "none" ? 0 : Math.floor(i / inner) % (shape[axis] ?? 1);
  return [...data.keys()].map((i) => {
    const own = [...data].filter((_, j) => channelOf(j) === channelOf(i)).map(Math.abs);
    return own.sort((a, b) => b - a)[Math.floor(outliers * own.length)] ?? 0;
  });
}
