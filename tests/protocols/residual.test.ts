// Error feedback: what an encoding loses in one round, a later one brings.
import fc from "fast-check";
import t from "tap";
import {
  decodeAll,
  type EncodingName,
  encodeAll,
  encodeWithResidual,
  encodingNames,
} from "../../protocols/index.ts";
import { float32, type Parameters, randomStream } from "../../runtime/index.ts";

const names = fc.constantFrom<EncodingName>(...encodingNames);
const rounds = fc.array(
  fc.float32Array({
    noNaN: true,
    min: Math.fround(-1e6),
    max: Math.fround(1e6),
    minLength: 12,
    maxLength: 12,
  }),
  { minLength: 1, maxLength: 8 },
);

t.test(
  "the decoded values of all rounds and the last residual are the sum of all values",
  async (t) => {
    fc.assert(
      fc.property(names, rounds, (encoding, list) => {
        let residual: Parameters | undefined;
        const arrived = new Float64Array(12);
        for (const data of list) {
          const round = encodeWithResidual(bundle(data), residual, encoding, { keepFraction: 0.2 });
          residual = round.residual;
          for (const [i, value] of dataOf(round.decoded).entries())
            arrived[i] = (arrived[i] ?? 0) + value;
        }
        const owed = dataOf(residual ?? new Map());
        for (const [i, sum] of arrived.entries()) {
          const exact = list.reduce((total, data) => total + (data[i] ?? 0), 0);
          // Each round rounds its residual to float32 once; no residual exceeds eight values of a million by much.
          const bound = list.length * 2 ** -24 * 2 * 8e6;
          t.ok(Math.abs(sum + (owed[i] ?? 0) - exact) <= bound, `${encoding} ${i}`);
        }
      }),
    );
  },
);

t.test("one round's decoded value and residual are the value and the old residual", async (t) => {
  fc.assert(
    fc.property(names, rounds, (encoding, [first = new Float32Array(12), second = first]) => {
      const before = bundle(second);
      const { decoded, residual } = encodeWithResidual(bundle(first), before, encoding);
      for (const [i, value] of dataOf(decoded).entries()) {
        const exact = (first[i] ?? 0) + (second[i] ?? 0);
        // The exact residual rounded once; float64 holds sums of these values exactly.
        t.equal(dataOf(residual)[i], Math.fround(exact - value));
      }
    }),
  );
});

t.test(
  "without a residual the first round is the plain encoding, as with one of zeros",
  async (t) => {
    const data = noise("first", 300);
    for (const encoding of encodingNames) {
      const first = encodeWithResidual(bundle(data), undefined, encoding);
      t.same(first.encoded, encodeAll(bundle(data), encoding), encoding);
      t.same(first.decoded, decodeAll(first.encoded));
      const zeros = bundle(new Float32Array(300));
      t.same(encodeWithResidual(bundle(data), zeros, encoding), first);
      t.same(encodeWithResidual(bundle(data), new Map(), encoding), first, "a tensor that is new");
    }
  },
);

t.test("the residual of a contractive encoding stays bounded over a hundred rounds", async (t) => {
  // Karimireddy et al. 2019, lemma 3: |e|^2 <= 4 (1 - delta) / delta^2 * max |x|^2. delta from tests/protocols/narrow-encodings.
  const cases = [
    { encoding: "int4", delta: 1 / 65 },
    { encoding: "topk", delta: 0.1 * (1 - 1 / 250) },
  ] as const;
  for (const { encoding, delta } of cases) {
    let residual: Parameters | undefined;
    let most = 0;
    let largest = 0;
    for (let round = 0; round < 100; round++) {
      const value = noise(`round ${round}`, 500);
      residual = encodeWithResidual(bundle(value), residual, encoding).residual;
      most = Math.max(most, norm(dataOf(residual)));
      largest = Math.max(largest, norm(value));
    }
    t.ok(most <= (2 * Math.sqrt(1 - delta) * largest) / delta, `${encoding}: ${most}`);
    t.ok(most > 0, "something was lost");
  }
});

t.test("topk brings small rows too, once they have waited", async (t) => {
  // A row a hundredth as large as the other: plain topk would never send it.
  const data = Float32Array.from({ length: 40 }, (_, i) => (i < 20 ? 1 : 0.01));
  let residual: Parameters | undefined;
  const arrived = new Float64Array(40);
  for (let round = 0; round < 200; round++) {
    const next = encodeWithResidual(bundle(data), residual, "topk", { keepFraction: 0.5 });
    residual = next.residual;
    for (const [i, value] of dataOf(next.decoded).entries()) arrived[i] = (arrived[i] ?? 0) + value;
  }
  const plain = decodeAll(encodeAll(bundle(data), "topk", { keepFraction: 0.5 }));
  t.ok(dataOf(plain).every((value, i) => (i < 20 ? value > 0 : value === 0)));
  // A small value is sent once it owes what a large one brings, after about a hundred rounds; none owes more than 4.
  t.ok(arrived.every((sum, i) => Math.abs(sum / 200 - (data[i] ?? 0)) < 0.02));
});

t.test("a residual of another shape is refused by name", async (t) => {
  const wrong = bundle(new Float32Array(3));
  t.throws(() => encodeWithResidual(bundle(new Float32Array(4)), wrong, "int4"), {
    code: "PROTOCOL_SHAPE_MISMATCH",
    message: /residual of "w" has shape \[3\], expected \[4\]/,
  });
  const most = bundle(Float32Array.of(3e38));
  t.throws(() => encodeWithResidual(most, most, "int4"), { message: /tensor w: value 0 of 1/ });
});

function bundle(data: Float32Array): Parameters {
  return new Map([["w", float32([data.length], data)]]);
}

function dataOf(parameters: Parameters): Float32Array {
  return parameters.get("w")?.data ?? new Float32Array(0);
}

function noise(key: string, length: number): Float32Array {
  const random = randomStream("residual", key);
  return Float32Array.from({ length }, () => random.normal());
}

function norm(data: Float32Array): number {
  return Math.sqrt(data.reduce((sum, value) => sum + value ** 2, 0));
}
