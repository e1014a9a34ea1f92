// Values through the wire's encodings and back, and bytes that lie about themselves.
import fc from "fast-check";
import t from "tap";
import {
  decodeAll,
  decodeTensor,
  type EncodedTensor,
  encodeAll,
  encodedByteLength,
  encodeTensor,
  encodingNames,
} from "../../protocols/encoding/index.ts";
import { float32, randomStream } from "../../runtime/index.ts";

const floats = fc.float32Array({ noNaN: true, noDefaultInfinity: true, maxLength: 60 });

t.test("float32 survives bit for bit, negative zero and subnormals too", async (t) => {
  fc.assert(
    fc.property(floats, (data) => {
      const back = decodeTensor(encodeTensor(float32([data.length], data), "float32"));
      t.ok(Buffer.from(back.data.buffer).equals(Buffer.from(data.slice().buffer)));
    }),
  );
});

t.test("bf16 rounds to the nearest, ties to even", async (t) => {
  // IEEE 754 single precision by hand: bfloat16 keeps 7 fraction bits, so neighbours of 1 are 2^-7 apart.
  const tie = 2 ** -8;
  const cases: readonly (readonly [number, number])[] = [
    [1, 1],
    [1 + tie, 1],
    [1 + 2 ** -7 + tie, 1 + 2 ** -6],
    [1 + tie + 2 ** -20, 1 + 2 ** -7],
    [-1 - tie, -1],
    [3.4028234663852886e38, 3.3895313892515355e38],
    [2 ** -149, 0],
  ];
  const values = float32(
    [cases.length],
    cases.map(([value]) => value),
  );
  const back = decodeTensor(encodeTensor(values, "bf16"));
  t.same(
    [...back.data],
    cases.map(([, expected]) => expected),
  );
});

t.test("bf16 writes the upper two bytes, little end first", async (t) => {
  // 0x3fc00000 is 1.5.
  t.same([...encodeTensor(float32([1], [1.5]), "bf16").bytes], [0xc0, 0x3f]);
});

t.test("int8 errs by at most half a step of its channel", async (t) => {
  const shapes = fc.constantFrom([60], [6, 10], [2, 3, 10], [3, 2, 5, 2]);
  const axes = fc.constantFrom<0 | "none" | undefined>(0, "none", undefined);
  const data = fc.float32Array({
    noNaN: true,
    noDefaultInfinity: true,
    minLength: 60,
    maxLength: 60,
  });
  fc.assert(
    fc.property(shapes, axes, data, (shape, axis, values) => {
      const encoded = encodeTensor(
        float32(shape, values),
        "int8",
        axis === undefined ? {} : { axis },
      );
      const back = decodeTensor(encoded);
      const most = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
      // Half of the coarsest step, plus float32 rounding of scale and product and the smallest subnormal scale.
      const bound = (most / 127) * (0.5 + 127 * 2 ** -22) + 127 * 2 ** -149;
      t.ok(back.data.every((v, i) => Math.abs(v - (values[i] as number)) <= bound));
    }),
  );
});

t.test("an outlier channel of activations leaves the others their precision", async (t) => {
  const random = randomStream("outliers");
  const [batch, seq, hidden] = [4, 8, 16];
  const data = Float32Array.from({ length: batch * seq * hidden }, (_, i) =>
    i % hidden === 3 ? 1000 * random.normal() : random.normal(),
  );
  const activations = float32([batch, seq, hidden], data);
  const worst = (axis: number) => {
    const back = decodeTensor(encodeTensor(activations, "int8", { axis }));
    const ordinary = [...data.keys()].filter((i) => i % hidden !== 3);
    return Math.max(...ordinary.map((i) => Math.abs((back.data[i] ?? 0) - (data[i] ?? 0))));
  };
  // A standard normal channel of 32 values stays under 5, so half a step is under 5 / 254.
  t.ok(worst(2) < 5 / 254);
  t.ok(worst(1) > 1, "a scale shared across channels flattens them");
  t.equal(encodeTensor(activations, "int8").bytes[0], 2, "channels are the default");
});

t.test("int8 lays out the axis, the scales, then the values", async (t) => {
  const { bytes } = encodeTensor(float32([2, 2], [127, -63.6, 0, 0]), "int8");
  t.same([...bytes], [0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0, 127, 256 - 64, 0, 0]);
});

t.test(
  "int8 of the tiniest and the largest values keeps their sign and stays finite",
  async (t) => {
    // 190 subnormal units / 127 rounds down to a scale of one unit, so the value itself is 190 steps off zero.
    const unit = 2 ** -149;
    const tiny = decodeTensor(encodeTensor(float32([2], [190 * unit, -190 * unit]), "int8"));
    t.same([...tiny.data], [127 * unit, -127 * unit]);
    const largest = 3.4028234663852886e38;
    const { data } = decodeTensor(encodeTensor(float32([2], [largest, -largest]), "int8"));
    // One unit in the last place of the scale, 2^-23, for keeping the product below infinity.
    t.ok(Math.abs((data[0] ?? 0) / largest - 1) < 2 ** -22);
    t.ok(Math.abs((data[1] ?? 0) / largest + 1) < 2 ** -22);
  },
);

t.test("the announced length is the length made", async (t) => {
  const shapes = [[], [0], [7], [3, 5], [0, 4], [2, 3, 4]];
  for (const encoding of encodingNames) {
    for (const shape of shapes) {
      const encoded = encodeTensor(float32(shape), encoding);
      const announced = encodedByteLength(shape, encoding);
      if (encoding === "topk") t.ok(encoded.bytes.length <= announced, `topk [${shape}]`);
      else t.equal(encoded.bytes.length, announced, `${encoding} [${shape}]`);
      t.same(decodeTensor(encoded).shape, shape);
    }
  }
});

t.test(
  "bytes that start at an odd address of a message decode to memory of their own",
  async (t) => {
    for (const encoding of encodingNames) {
      const { shape, bytes } = encodeTensor(float32([2, 2], [1, 2, 3, 4]), encoding);
      const message = new Uint8Array(bytes.length + 1);
      message.set(bytes, 1);
      const back = decodeTensor({ shape, encoding, bytes: message.subarray(1) });
      message.fill(0);
      t.ok(Math.abs((back.data[3] as number) - 4) < 0.02, encoding);
    }
  },
);

t.test("a bundle keeps its names, and an error names the tensor", async (t) => {
  const bundle = new Map([["a.lora_A.weight", float32([1], [2])]]);
  t.same(decodeAll(encodeAll(bundle, "float32")), bundle);
  const broken = new Map([["a.lora_A.weight", float32([1], [Number.NaN])]]);
  t.throws(() => encodeAll(broken, "float32"), {
    code: "PROTOCOL_TENSOR_INVALID",
    message: /a\.lora_A\.weight: value 0 of 1 is not finite/,
  });
});

t.test("what is not finite is refused in both directions", async (t) => {
  const bad = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const encoding of encodingNames) {
    for (const value of bad) {
      t.throws(() => encodeTensor(float32([2], [1, value]), encoding), {
        code: "PROTOCOL_TENSOR_INVALID",
      });
    }
  }
  const bytes = (...values: number[]) => Uint8Array.from(values);
  const infinite: EncodedTensor[] = [
    { shape: [1], encoding: "float32", bytes: bytes(0, 0, 0x80, 0x7f) },
    { shape: [1], encoding: "bf16", bytes: bytes(0x80, 0xff) },
    { shape: [1], encoding: "int8", bytes: bytes(255, 0, 0, 0xc0, 0x7f, 1) },
    { shape: [1], encoding: "int4", bytes: bytes(0x80, 0x7f, 0) },
    // The largest bfloat16 times 2.
    { shape: [1], encoding: "int4", bytes: bytes(0x7f, 0x7f, 2) },
    { shape: [1], encoding: "topk", bytes: bytes(1, 0, 0, 0, 0xc0, 0x7f, 1, 1) },
  ];
  for (const encoded of infinite) {
    t.throws(() => decodeTensor(encoded), { code: "PROTOCOL_TENSOR_INVALID" }, encoded.encoding);
  }
});

t.test("bytes that do not fit the shape are refused before anything is allocated", async (t) => {
  const bytes = new Uint8Array(16);
  const shapes = [[5], [6], [2 ** 40], [2 ** 30, 2 ** 30], [-4], [1.5], Array(9).fill(1), [-2, -2]];
  for (const encoding of encodingNames) {
    for (const shape of shapes) {
      t.throws(
        () => decodeTensor({ shape, encoding, bytes }),
        { code: "PROTOCOL_TENSOR_INVALID" },
        `${encoding} [${shape}]`,
      );
    }
  }
  t.throws(() => decodeTensor({ shape: [11], encoding: "int8", bytes: bytes.fill(7) }), {
    message: /an axis of it/,
  });
  t.throws(() => decodeTensor({ shape: [2], encoding: "zip" as "int8", bytes }), {
    message: /unknown encoding "zip"; this end has float32, bf16, int8, int4, topk/,
  });
  t.throws(() => encodeTensor(float32([2, 2]), "int8", { axis: 2 }), { message: /no axis 2/ });
  t.throws(() => encodeTensor({ ...float32([2]), shape: [3] }, "bf16"), {
    message: /2 values do not fill shape \[3\]/,
  });
});
