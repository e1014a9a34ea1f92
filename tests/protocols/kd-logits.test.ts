// How logits of `kd` travel: which classes were kept, their values, and what the dropped ones weigh together.
import fc from "fast-check";
import t from "tap";
import { type Task, taskSchema } from "../../protocols/index.ts";
import { bitReader, bitWriter } from "../../protocols/kd/bit-stream.ts";
import { classSetBits, readClassSet, writeClassSet } from "../../protocols/kd/class-sets.ts";
import {
  type PackedLogits,
  packedByteLength,
  packLogits,
  unpackLogits,
} from "../../protocols/kd/logits.ts";
import { keepCounts, rankRow, type SparseLogits } from "../../protocols/kd/sparse-logits.ts";
import { chooseLogits } from "../../protocols/kd/top-k.ts";
import { logitEncodings } from "../../protocols/kd/value-codes.ts";
import { randomStream } from "../../runtime/index.ts";

const size = { rows: 6, classes: 10 };

/** Rows of logits, 3 of standard deviation. */
function randomRows({ rows, classes }: typeof size): Float32Array[] {
  const random = randomStream("logits");
  return Array.from({ length: rows }, () =>
    Float32Array.from({ length: classes }, () => 3 * random.normal()),
  );
}

/** The `counts[row]` largest of each row. */
function kept(
  rows: readonly Float32Array[],
  counts: readonly number[],
  temperature = 1,
): SparseLogits {
  const classes = rows[0]?.length ?? 0;
  const ranked = rows.map((row) => rankRow(row, classes, temperature));
  return keepCounts({ classes, temperature, rows: ranked }, counts);
}

/** Logits of one row by class, the dropped ones sharing their weight evenly. */
function rowOf(
  { classes, starts, indices, values, rests }: SparseLogits,
  row: number,
  temperature = 1,
) {
  const [from = 0, to = 0] = starts.subarray(row, row + 2);
  const share = (rests[row] as number) - temperature * Math.log(classes - (to - from));
  const logits = new Array<number>(classes).fill(share);
  for (let i = from; i < to; i++) logits[indices[i] as number] = values[i] as number;
  return logits;
}

/** What must come out of keeping the `topK` largest: the others share the weight that they have together. */
function naive(logits: readonly number[], topK: number, temperature: number): number[] {
  const least = logits.toSorted((x, y) => y - x)[topK - 1] as number;
  const dropped = logits.filter((value) => value < least);
  const mean =
    dropped.reduce((sum, value) => sum + Math.exp(value / temperature), 0) / dropped.length;
  return logits.map((value) => (value < least ? temperature * Math.log(mean) : value));
}

t.test("the largest logits travel as they are, the others keep their mass", async (t) => {
  const rows = randomRows(size);
  for (const temperature of [1, 2]) {
    const packed = packLogits(kept(rows, [3, 3, 3, 3, 3, 3], temperature), "float32");
    const restored = unpackLogits(structuredClone(packed), size);
    rows.forEach((logits, row) => {
      const expected = naive([...logits], 3, temperature);
      rowOf(restored, row, temperature).forEach((value, i) => {
        const wanted = expected[i] as number;
        // The rest is rounded to float32: 6e-8 of values below 16.
        t.ok(Math.abs(value - wanted) < 2e-6, `${value} is ${wanted}`);
      });
    });
  }
});

t.test("with as many kept as there are classes float32 loses nothing", async (t) => {
  const rows = randomRows(size);
  const packed = packLogits(kept(rows, [10, 10, 10, 10, 10, 10]), "float32");
  t.equal(packed.blobs.get("logits")?.length, 4 * 60, "and takes no byte beside the values");
  t.same(
    unpackLogits(packed, size).values,
    rows.flatMap((row) => [...row]),
  );
  const equal = kept([new Float32Array(10)], [2]);
  t.same([...equal.indices], [0, 1], "the first of equal logits are kept");
});

t.test("rows that keep different numbers of classes come back as they were", async (t) => {
  const logits = fc.float({ min: -60, max: 60, noNaN: true });
  const cases = fc
    .tuple(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 90 }))
    .chain(([rows, classes]) =>
      fc.tuple(
        fc.array(fc.array(logits, { minLength: classes, maxLength: classes }), {
          minLength: rows,
          maxLength: rows,
        }),
        fc.array(fc.integer({ min: 1, max: classes }), { minLength: rows, maxLength: rows }),
        fc.constantFrom(...logitEncodings),
      ),
    );
  fc.assert(
    fc.property(cases, ([values, counts, encoding]) => {
      const rows = values.map((row) => Float32Array.from(row));
      const sparse = kept(rows, counts);
      const packed = packLogits(sparse, encoding);
      const bytes = packed.blobs.get("logits") as Uint8Array;
      const restored = unpackLogits(packed, { rows: rows.length, classes: sparse.classes });
      const { rows: _, ...layout } = packed.fields;
      if (packedByteLength(counts, layout) !== bytes.length) return false;
      if (String(restored.indices) !== String(sparse.indices)) return false;
      return rows.every(
        (_, row) => largestError(sparse, restored, row) <= bounds[encoding](rows[row]),
      );
    }),
  );
  t.end();
});

/** What a value may be off by: nothing, 2^-8 of at most 60, half a step of the row's range in a scale rounded up to bf16. */
const bounds = {
  float32: () => 0,
  bf16: () => 60 / 256,
  int8: (row: Float32Array | undefined) => halfStep(row, 255),
  int4: (row: Float32Array | undefined) => halfStep(row, 15),
} as const;

function halfStep(row: Float32Array = new Float32Array(1), levels: number): number {
  return ((Math.max(...row) - Math.min(...row)) / levels) * (1 + 2 ** -7) * 0.5 + 1e-4;
}

/** Largest difference of a row's values from their largest, for int8 and int4 send no heights. */
function largestError(sent: SparseLogits, came: SparseLogits, row: number): number {
  const [from = 0, to = 0] = sent.starts.subarray(row, row + 2);
  const below = ({ values }: SparseLogits) => {
    const own = [...values.subarray(from, to)];
    const most = Math.max(...own);
    return own.map((value) => most - value);
  };
  const [before, after] = [below(sent), below(came)];
  return Math.max(...before.map((value, i) => Math.abs(value - (after[i] as number))));
}

t.test(
  "sets of classes take as few bits as the table says and never more than a bitmap",
  async (t) => {
    t.equal(classSetBits(77, 12), 55, "12 of 77: 12 * 2 lower bits, 12 + 19 upper ones");
    t.equal(classSetBits(50257, 16), 16 * 11 + 16 + 24, "16 of the tokens of GPT-2");
    t.equal(classSetBits(77, 40), 77, "a bitmap");
    t.equal(classSetBits(10, 10), 0, "all");
    const sets = fc
      .integer({ min: 1, max: 3000 })
      .chain((classes) =>
        fc.tuple(
          fc.constant(classes),
          fc.uniqueArray(fc.integer({ min: 0, max: classes - 1 }), { minLength: 1, maxLength: 40 }),
        ),
      );
    fc.assert(
      fc.property(sets, ([classes, chosen]) => {
        const ascending = Uint32Array.from(chosen).sort();
        const bits = classSetBits(classes, ascending.length);
        const writer = bitWriter(bits);
        writeClassSet(writer, classes, ascending);
        const read = new Uint32Array(ascending.length);
        const reader = bitReader(writer.bytes);
        const isSet = readClassSet(reader, classes, read);
        reader.end();
        return isSet && bits <= classes && String(read) === String(ascending);
      }),
    );
  },
);

t.test("logits that do not fit are refused", async (t) => {
  const good = packLogits(kept(randomRows(size), [3, 3, 3, 3, 3, 3]), "float32");
  const bytes = good.blobs.get("logits") as Uint8Array;
  const blob = (changed: Uint8Array) => ({ blobs: new Map([["logits", changed]]) });
  const fields = (changed: Partial<PackedLogits["fields"]>) => ({
    fields: { ...good.fields, ...changed },
  });
  const without = bytes.map((byte, i) => (i < 2 ? 0 : byte));
  for (const [change, message] of [
    [fields({ classes: 9 }), /9 classes, the task has 10/],
    [fields({ rows: 7 }), /7 rows, expected 6/],
    [fields({ kept: 11 }), /11 kept of 10/],
    [fields({ kept: 4 }), /the classes of row 0 are not 4 of 10/],
    [blob(bytes.subarray(0, -1)), /end within a number/],
    [blob(Uint8Array.of(...bytes, 0)), /1 of \d+ bytes too many/],
    [blob(without), /the classes of row 0 are not 3 of 10/],
    [blob(bytes.map((byte, i) => (i < 2 ? byte : 0xff))), /row 0 holds values that are not finite/],
    [{ blobs: new Map() }, /"logits" is missing/],
  ] as const) {
    const bad = { ...good, ...change };
    t.throws(() => unpackLogits(bad, size), { code: "PROTOCOL_PAYLOAD_INVALID", message });
  }
  const wide = { fields: { ...good.fields, classes: 2 ** 20, rows: 2 ** 20, kept: 2 ** 20 } };
  t.throws(() => unpackLogits({ ...good, ...wide }, { rows: 2 ** 20, classes: 2 ** 20 }), {
    code: "PROTOCOL_PAYLOAD_INVALID",
    message: /bytes do not hold row 0/,
  });
  t.throws(() => rankRow(Float32Array.of(1, Number.NaN), 1, 1), {
    code: "PROTOCOL_TENSOR_INVALID",
    message: /class 1 of 2 is not finite/,
  });
});

t.test("any bytes are refused or are logits", async (t) => {
  const shape = { rows: 3, classes: 12 };
  const messages = fc.tuple(
    fc.uint8Array({ maxLength: 60 }),
    fc.integer({ min: 1, max: 12 }),
    fc.boolean(),
    fc.constantFrom(...logitEncodings),
  );
  fc.assert(
    fc.property(messages, ([bytes, most, isCounted, encoding]) => {
      const fields = { ...shape, kept: most, isCounted, encoding };
      try {
        const { indices, values } = unpackLogits(
          { fields, blobs: new Map([["logits", bytes]]) },
          shape,
        );
        return indices.every((index) => index < 12) && values.every(Number.isFinite);
      } catch (error) {
        return (error as { code?: string }).code === "PROTOCOL_PAYLOAD_INVALID";
      }
    }),
    { numRuns: 1000 },
  );
  t.end();
});

const adaptive = (settings: Partial<Task["kd"]> = {}) =>
  taskSchema.parse({
    name: "toy",
    head: { kind: "classification", labels: ["a", "b"] },
    kd: { topK: "adaptive", ...settings },
  }) as Task;

t.test(
  "an adaptive k keeps of each row the fewest that hold the share of its probability",
  async (t) => {
    // Probabilities 1/2, 1/4, 1/8 ... at temperature 1, and an even row.
    const halves = Float32Array.from({ length: 8 }, (_, i) => -i * Math.LN2);
    const even = new Float32Array(8);
    const rows = [halves, even].map((row) => rankRow(row, 8, 1));
    const task = adaptive({ keptMass: 0.7, temperature: 1 });
    const { starts } = chooseLogits(
      { classes: 8, temperature: 1, rows },
      { task, encoding: "int8" },
    );
    // 1/2 + 1/4 of 255/256 is 0.753; 6/8 is the first share of eighths above 0.7.
    t.same([...starts], [0, 2, 8]);
  },
);

t.test("where the link does not carry the share it falls for all rows alike", async (t) => {
  const rows = randomRows({ rows: 200, classes: 77 }).map((row) => rankRow(row, 77, 2));
  const ranked = { classes: 77, temperature: 2, rows };
  const bytesOf = (mostBytes?: number) => {
    const choice = { task: adaptive(), encoding: "int8", mostBytes } as const;
    return packLogits(chooseLogits(ranked, choice), "int8").blobs.get("logits")?.length ?? 0;
  };
  const free = bytesOf();
  for (const most of [2000, 3000, 5000]) {
    const bytes = bytesOf(most);
    t.ok(free > most && bytes <= most && bytes > 0.9 * most, `${bytes} of ${most}, else ${free}`);
  }
  const one = bytesOf(1);
  t.equal(one, bytesOf(2), "with hardly any link one logit of each row goes");
  t.ok(one > 200);
});
