// int4 and topk: bytes by hand, choices against slow oracles, and how much of a tensor they may lose.
import fc from "fast-check";
import t from "tap";
import {
  decodeTensor,
  type EncodedTensor,
  type EncodeOptions,
  type EncodingName,
  encodedByteLength,
  encodeTensor,
} from "../../protocols/encoding/index.ts";
// The coding of indices and the selection are inside the encodings: their corners are not reachable by name.
import { indexBytes, packIndices, unpackIndices } from "../../protocols/encoding/indices.ts";
import { largestIndices } from "../../protocols/encoding/largest.ts";
import { taskSchema } from "../../protocols/index.ts";
import { float32, randomStream } from "../../runtime/index.ts";

/** Finite values over 60 orders of magnitude, many of them equal or zero; below 1e-30 a scale may lose bits. */
const values = fc.array(
  fc.oneof(
    fc.constantFrom(0, -0, 1, -1, 2, 1e-30),
    fc.float({ noNaN: true, min: Math.fround(-1e30), max: Math.fround(1e30) }).map(withoutTiny),
  ),
  { minLength: 1, maxLength: 300 },
);

t.test("int4 lays out a bfloat16 scale of each block, then two codes a byte", async (t) => {
  // -8 is the largest magnitude: scale 1 (0x3f80), codes -8, 4, 1. The unused half is 0.
  t.same([...encodeTensor(float32([3], [-8, 4, 1]), "int4").bytes], [0x80, 0x3f, 0x48, 0x01]);
  // A positive one turns the scale, for +8 is no code of four bits: scale -1 (0xbf80), codes -8, 4.
  t.same([...encodeTensor(float32([2], [8, -4]), "int4").bytes], [0x80, 0xbf, 0x48]);
  const two = encodeTensor(float32([65], [...Array(64).fill(-8), -16]), "int4").bytes;
  t.same(
    [...two.subarray(0, 4)],
    [0x80, 0x3f, 0x00, 0x40],
    "the 65th value has a block of its own",
  );
  t.equal(two.length, 2 * 2 + 33);
  // 13.3% of float32: (64 / 2 + 2) / (64 * 4).
  t.equal(encodedByteLength([16, 96, 128], "int4") / (4 * 16 * 96 * 128), 34 / 256);
});

t.test("int4 takes the better of two scales for each block", async (t) => {
  const random = randomStream("int4 scales");
  const data = Float32Array.from({ length: 64 * 50 }, () => random.normal());
  const back = decodeTensor(encodeTensor(float32([50, 64], data), "int4")).data;
  let clipped = 0;
  for (let start = 0; start < data.length; start += 64) {
    const block = [...data.subarray(start, start + 64)];
    const largest = block.reduce((most, value) =>
      Math.abs(value) > Math.abs(most) ? value : most,
    );
    const errorAt = (scale: number) =>
      block.reduce((sum, value) => {
        const code = Math.max(-8, Math.min(7, Math.round(value / scale)));
        return sum + (value - code * scale) ** 2;
      }, 0);
    const [whole, less] = [errorAt(-largest / 8), errorAt((-largest / 8) * 0.9)];
    const made = block.reduce((sum, value, i) => sum + (value - (back[start + i] ?? 0)) ** 2, 0);
    // A scale is rounded to 8 bits, which moves the error by some percent at most.
    t.ok(made <= 1.05 * Math.min(whole, less));
    if (less < whole) clipped++;
  }
  t.ok(clipped > 5 && clipped < 45, "neither always wins");
});

t.test("topk lays out the count, scales, codes and Rice-coded gaps", async (t) => {
  const data = float32([8], [0, 0, -64, 0, 0, 0, 128, 1]);
  const { bytes } = encodeTensor(data, "topk", { keepFraction: 0.25 });
  // Two kept; scale -1 (0xbf80) puts 128 on -128 and -64 on 64. Gaps 2 and 3 with one bit of remainder:
  // 0 1 0 and 0 1 1, from the low end of the byte: bits 1, 4 and 5.
  t.same([...bytes], [2, 0, 0, 0, 0x80, 0xbf, 64, 0x80, 0b110010]);
  t.same(
    [...decodeTensor({ ...data, encoding: "topk", bytes }).data],
    [0, 0, -64, 0, 0, 0, 128, 0],
  );
});

t.test("the largest magnitudes are found, the earlier of equal ones, zeros never", async (t) => {
  fc.assert(
    fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (list, share) => {
      const data = Float32Array.from(list);
      const kept = Math.round(share * data.length);
      const sorted = [...data.keys()]
        .filter((i) => data[i] !== 0)
        .sort((a, b) => Math.abs(data[b] ?? 0) - Math.abs(data[a] ?? 0) || a - b);
      const expected = sorted.slice(0, kept).sort((a, b) => a - b);
      t.same([...largestIndices(data, kept)], expected);
    }),
  );
});

t.test("any rising indices come back, in no more bytes than announced", async (t) => {
  const some = fc.uniqueArray(fc.nat(5000), { maxLength: 300 });
  fc.assert(
    fc.property(some, fc.nat(2 ** 26 - 5001), (list, beyond) => {
      const indices = Uint32Array.from(list).sort();
      const range = { kept: indices.length, count: 5001 + beyond };
      const bytes = packIndices(indices, range.count);
      t.ok(bytes.length <= indexBytes(range));
      t.same(unpackIndices(bytes, range), indices);
    }),
  );
  const last = Uint32Array.of(2 ** 26 - 1);
  const alone = { kept: 1, count: 2 ** 26 };
  t.same(unpackIndices(packIndices(last, 2 ** 26), alone), last);
});

t.test("keepFraction decides how many values travel, one at least, and nothing else", async (t) => {
  const random = randomStream("keep");
  const data = float32(
    [30, 50],
    Float32Array.from({ length: 1500 }, () => random.normal()),
  );
  const keptAt = (keepFraction: number) => {
    const encoded = encodeTensor(data, "topk", { keepFraction });
    t.ok(encoded.bytes.length <= encodedByteLength(data.shape, "topk", { keepFraction }));
    const { bytes } = encoded;
    return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  };
  t.same([1e-9, 0.01, 0.1, 0.5, 1].map(keptAt), [1, 15, 150, 750, 1500]);
  t.same(encodeTensor(data, "topk"), encodeTensor(data, "topk", { keepFraction: 0.1 }));
  for (const encoding of ["float32", "bf16", "int8", "int4"] as const) {
    const options = { keepFraction: 0.5 };
    t.same(encodeTensor(data, encoding, options), encodeTensor(data, encoding), encoding);
  }
  for (const keepFraction of [0, -1, 1.1, Number.NaN]) {
    t.throws(() => encodeTensor(data, "topk", { keepFraction }), { message: /cannot be kept/ });
  }
});

t.test("topk at a tenth takes less than 4.4% of float32", async (t) => {
  // 8 bits of value, 16 / 64 of scale, and for the gaps at most 4 bits and 0.9 / 8 of a bit a place: 13.375 bits of a tenth.
  const shape = [16, 96, 128];
  const share = encodedByteLength(shape, "topk", { keepFraction: 0.1 }) / (4 * 16 * 96 * 128);
  t.ok(share < 0.044, `${share}`);
});

t.test("int4 and topk never lose all of a tensor", async (t) => {
  // Stich et al. 2018, definition 2.1: |x - C(x)|^2 <= (1 - delta) |x|^2, which error feedback needs to converge.
  const contracts = (encoding: EncodingName, options: EncodeOptions, delta: number) =>
    fc.assert(
      fc.property(values, (list) => {
        const data = Float32Array.from(list);
        const back = decodeTensor(encodeTensor(float32([data.length], data), encoding, options));
        const lost = data.reduce((sum, v, i) => sum + (v - (back.data[i] ?? 0)) ** 2, 0);
        const all = data.reduce((sum, v) => sum + v ** 2, 0);
        t.ok(lost <= (1 - delta) * all, `${lost} of ${all}`);
      }),
    );
  // The largest of a block's 64 values has a 64th of its square at least and errs by 2^-8 of itself.
  contracts("int4", {}, 1 / 65);
  for (const keepFraction of [0.01, 0.1, 0.5, 1]) {
    // A kept value errs by one step, a 128th of its block's largest: 64 / 128^2 of the block's square at most. The
    // share of what is kept may be rounded down by half a value of one.
    contracts("topk", { keepFraction }, (keepFraction / 2) * (1 - 1 / 250));
  }
});

t.test("the tiniest and the largest values keep their sign and stay finite", async (t) => {
  const largest = 3.4028234663852886e38;
  for (const encoding of ["int4", "topk"] as const) {
    for (const sign of [1, -1]) {
      const tensor = float32([2], [sign * largest, 0]);
      const back = decodeTensor(encodeTensor(tensor, encoding, { keepFraction: 1 })).data[0] ?? 0;
      // bfloat16 ends 2^-8 below float32.
      t.ok(Math.abs((sign * back) / largest - 1) < 2 ** -7, `${encoding} ${back}`);
      const tiny = decodeTensor(encodeTensor(float32([1], [sign * 2 ** -126]), encoding));
      t.equal(tiny.data[0], sign * 2 ** -126, "the smallest normal float32 is a bfloat16, too");
    }
  }
});

t.test(
  "bytes that lie are refused with a code, and never decode to more than their shape",
  async (t) => {
    const shapes = fc.constantFrom([5], [8, 8], [65], [0], []);
    const bytes = fc.uint8Array({ maxLength: 80 });
    const encodings = fc.constantFrom<EncodingName>("int4", "topk");
    fc.assert(
      fc.property(encodings, shapes, bytes, fc.nat(9), (encoding, shape, tail, kept) => {
        const start = encoding === "topk" ? [kept, 0, 0, 0] : [];
        const encoded = { shape, encoding, bytes: Uint8Array.from([...start, ...tail]) };
        const count = shape.reduce((product, size) => product * size, 1);
        t.equal(lengthOrCode(encoded, count), "fine");
      }),
      { numRuns: 500 },
    );
    const good = encodeTensor(float32([8], [0, 0, -64, 0, 0, 0, 128, 1]), "topk", {
      keepFraction: 0.25,
    });
    const refused = (what: string, change: (bytes: number[]) => number[]) => {
      const changed = Uint8Array.from(change([...good.bytes]));
      t.throws(
        () => decodeTensor({ ...good, bytes: changed }, "w"),
        { code: "PROTOCOL_TENSOR_INVALID", message: /tensor w: topk of shape \[8\] / },
        what,
      );
    };
    refused("a byte too many", (own) => [...own, 0]);
    refused("a byte too few", (own) => own.slice(0, -1));
    refused("more kept than there are", (own) => [9, ...own.slice(1)]);
    refused("a count beyond all memory", (own) => [255, 255, 255, 255, ...own.slice(4)]);
    refused("no count", (own) => own.slice(0, 3));
    refused("an index beyond the shape", (own) => [...own.slice(0, -1), 0b11100010]);
    const huge = { shape: [2 ** 26 + 1], encoding: "topk", bytes: new Uint8Array(4) } as const;
    t.throws(() => decodeTensor(huge), {
      message: /no shape of at most 8 whole sizes and 67108864/,
    });
  },
);

t.test("a task may not drop logits or activations, which no later message brings", async (t) => {
  const task = { name: "a", head: { kind: "classification", labels: ["a", "b"] } };
  const parses = (settings: object) => taskSchema.safeParse({ ...task, ...settings }).success;
  t.ok(parses({ full: { encoding: "topk" }, split: { gradients: "topk" } }));
  t.ok(parses({ kd: { encoding: "int4" }, split: { activations: "int4" } }));
  t.notOk(parses({ kd: { encoding: "topk" } }));
  t.notOk(parses({ split: { activations: "topk" } }));
});

function withoutTiny(value: number): number {
  return Math.abs(value) < 1e-30 ? 0 : value;
}

function lengthOrCode(encoded: EncodedTensor, count: number): string {
  try {
    const { data } = decodeTensor(encoded);
    return data.length === count && data.every(Number.isFinite) ? "fine" : "wrong values";
  } catch (error) {
    const { code } = error as { code?: string };
    return code === "PROTOCOL_TENSOR_INVALID" ? "fine" : String(error);
  }
}
