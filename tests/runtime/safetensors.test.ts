// The safetensors format: golden values of PyTorch, equal bytes for equal tensors, and files that lie.
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { TrifoldError } from "../../runtime/errors.ts";
import { replaceFile, writeFileAtomic } from "../../runtime/files.ts";
import { readSafetensors } from "../../runtime/models/safetensors.ts";
import { writeSafetensors, writeStoredTensors } from "../../runtime/models/safetensors-writer.ts";
import { type Float32Tensor, float32, type Int64Tensor, int64 } from "../../runtime/tensor.ts";

/**
 * Made with PyTorch 1.13: x = the float32 values; x.half(), x.bfloat16() and both back by .float(), as
 * little-endian hex. Zeros, halfway cases, the largest and the smallest half, subnormals, carries.
 */
const golden = {
  float32:
    "00000000000000800000803f000080bfcdcccc3ddb0f494000e07f47ffef7f470000803800c07f3800e07f38ffdf7f38000080330000003301000033ffffff320000c0330010803f0110803f0030803fff2f803fffffff3f00f07f3fffef7f3f79e9f6c2bd3786350000a0360080a0360100000000008080000040b30000c03f",
  float16:
    "00000080003c00bc662e4842ff7bff7b0004ff030004ff0301000000010000000200003c013c023c013c0040003cff3bb7d7110050005000000000800180003e",
  fromFloat16:
    "00000000000000800000803f000080bf00c0cc3d0000494000e07f4700e07f470000803800c07f380000803800c07f3800008033000000000000803300000000000000340000803f0020803f0040803f0020803f000000400000803f00e07f3f00e0f6c2000088350000a0360000a0360000000000000080000080b30000c03f",
  bfloat16:
    "00000080803f80bfcd3d49408047804780388038803880388033003300330033c033803f803f803f803f0040803f803ff7c28635a036a0360000808040b3c03f",
  fromBfloat16:
    "00000000000000800000803f000080bf0000cd3d00004940000080470000804700008038000080380000803800008038000080330000003300000033000000330000c0330000803f0000803f0000803f0000803f000000400000803f0000803f0000f7c2000086350000a0360000a0360000000000008080000040b30000c03f",
};
const count = golden.float32.length / 8;

t.test("F16 and BF16 tensors are read as PyTorch reads them", async (t) => {
  const file = join(t.testdir(), "half.safetensors");
  const data = [golden.float16, golden.bfloat16].map((hex) => Buffer.from(hex, "hex"));
  const header = {
    half: { dtype: "F16", shape: [count], data_offsets: [0, 2 * count] },
    brain: { dtype: "BF16", shape: [count], data_offsets: [2 * count, 4 * count] },
  };
  writeFileSync(file, craft(header, Buffer.concat(data)));
  const source = await readSafetensors(file);
  t.equal(hexOf((await source.readFloat32("half")).data), golden.fromFloat16);
  t.equal(hexOf((await source.readFloat32("brain")).data), golden.fromBfloat16);
});

t.test("bytes are kept as they are, and read as PyTorch reads them", async (t) => {
  const file = join(t.testdir(), "stored.safetensors");
  const brain = { dtype: "BF16", shape: [count], bytes: Buffer.from(golden.bfloat16, "hex") };
  const metadata = { of: "a test" };
  await writeStoredTensors(file, new Map([["brain", brain]]), { metadata });
  const source = await readSafetensors(file);
  t.same(source.metadata, metadata);
  const { bytes, ...rest } = await source.readStored("brain");
  t.same(rest, { dtype: "BF16", shape: [count] });
  t.equal(Buffer.from(bytes).toString("hex"), golden.bfloat16);
  t.equal(hexOf((await source.readFloat32("brain")).data), golden.fromBfloat16);
});

t.test("float16 files hold the bits that PyTorch rounds to", async (t) => {
  const file = join(t.testdir(), "half.safetensors");
  const values = new Float32Array(new Uint8Array(Buffer.from(golden.float32, "hex")).buffer);
  await writeSafetensors(file, new Map([["x", float32([count], values)]]), { float16: true });
  t.equal(
    readFileSync(file)
      .subarray(-2 * count)
      .toString("hex"),
    golden.float16,
  );
  for (const beyond of [65_520, Number.POSITIVE_INFINITY, Number.NaN]) {
    const tensors = new Map([["w.big", float32([1], [beyond])]]);
    await t.rejects(writeSafetensors(file, tensors, { float16: true }), {
      code: "MODEL_TENSOR_INVALID",
      message: /w\.big/,
    });
  }
  t.equal(
    (await readSafetensors(file)).tensors.size,
    1,
    "a refused write leaves the file as it was",
  );
});

t.test("equal tensors give equal bytes whatever their order, and come back", async (t) => {
  const folder = t.testdir();
  const tensors: readonly (readonly [string, Float32Tensor | Int64Tensor])[] = [
    ["b", float32([2, 3], [1, -0, 3e-45, 4, 5, 6])],
    ["a", int64([2], BigInt64Array.of(-1n, 2n ** 62n + 1n))],
    ["empty", float32([0, 4])],
    ["scalar", float32([], [7])],
    ["__proto__", float32([1], [8])],
  ];
  const metadata = { z: "1", a: "2" };
  await writeSafetensors(join(folder, "one"), new Map(tensors), { metadata });
  await writeSafetensors(join(folder, "two"), new Map([...tensors].reverse()), {
    metadata: { a: "2", z: "1" },
  });
  const bytes = readFileSync(join(folder, "one"));
  t.ok(bytes.equals(readFileSync(join(folder, "two"))));
  t.equal(Number(bytes.readBigUInt64LE()) % 8, 0, "tensors start on a multiple of 8 bytes");
  const source = await readSafetensors(join(folder, "one"));
  t.same(source.metadata, metadata);
  for (const [name, tensor] of tensors) t.same(await source.readTensor(name), tensor);
  await t.rejects(source.readTensor("c"), { code: "MODEL_TENSOR_MISSING", message: /a, b/ });
  await t.rejects(source.readFloat32("a"), { code: "MODEL_TENSOR_INVALID", message: /int64/ });
});

const x = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
const lies: readonly {
  readonly title: string;
  readonly bytes: Buffer;
  readonly code: string;
  readonly message: RegExp;
}[] = [
  {
    title: "an empty file",
    bytes: Buffer.alloc(0),
    code: "MODEL_FILE_TRUNCATED",
    message: /0 bytes/,
  },
  {
    title: "a header of 2^63 bytes",
    bytes: Buffer.from("00000000000000807b7d", "hex"),
    code: "MODEL_FOLDER_INVALID",
    message: /allowed 100000000/,
  },
  {
    title: "a header longer than the file",
    bytes: craft({ x }, Buffer.alloc(8)).subarray(0, 20),
    code: "MODEL_FILE_TRUNCATED",
    message: /header/,
  },
  invalid("a header that is not JSON", rawHeader("{x")),
  invalid("a header that is a list", rawHeader("[]")),
  invalid("metadata that is not text", rawHeader('{"__metadata__":{"a":1}}')),
  invalid("a tensor without offsets", craft({ x: { dtype: "F32", shape: [0] } }, Buffer.alloc(0))),
  invalid("a negative size", craft({ x: { ...x, shape: [-2] } }, Buffer.alloc(8))),
  invalid(
    "a size that no file has",
    craft({ x: { ...x, shape: [2 ** 53, 2 ** 53] } }, Buffer.alloc(8)),
  ),
  invalid("an end before the start", craft({ x: { ...x, data_offsets: [8, 0] } }, Buffer.alloc(8))),
  invalid("fewer bytes than the shape takes", craft({ x: { ...x, shape: [3] } }, Buffer.alloc(8))),
  invalid(
    "overlapping tensors",
    craft({ x, y: { ...x, data_offsets: [4, 12] } }, Buffer.alloc(12)),
  ),
  invalid("a gap", craft({ x, y: { ...x, data_offsets: [12, 20] } }, Buffer.alloc(20))),
  invalid("bytes behind the last tensor", craft({ x }, Buffer.alloc(9))),
];
t.test("a file that lies is refused with its name and its fault", async (t) => {
  const file = join(t.testdir(), "lie.safetensors");
  for (const { title, bytes, code, message } of lies) {
    writeFileSync(file, bytes);
    await t.rejects(readSafetensors(file), { code, message }, title);
    await t.rejects(readSafetensors(file), { message: /lie\.safetensors/ }, `${title}: the file`);
  }
  await t.rejects(readSafetensors(join(file, "..", "absent")), { code: "MODEL_FOLDER_INVALID" });
});

t.test("tensors of other types are listed, and refused when asked for", async (t) => {
  const file = join(t.testdir(), "types.safetensors");
  const header = {
    mask: { dtype: "BOOL", shape: [2], data_offsets: [0, 2] },
    odd: { dtype: "constructor", shape: [2], data_offsets: [2, 4] },
  };
  writeFileSync(file, craft(header, Buffer.alloc(4)));
  const source = await readSafetensors(file);
  await t.rejects(source.readTensor("mask"), { code: "MODEL_TENSOR_INVALID", message: /BOOL/ });
  await t.rejects(source.readTensor("odd"), {
    code: "MODEL_TENSOR_INVALID",
    message: /constructor/,
  });
});

t.test("every shorter copy of a file is refused as truncated", async (t) => {
  const folder = t.testdir();
  const whole = craft({ x, y: { ...x, data_offsets: [8, 16] } }, Buffer.alloc(16));
  for (let length = 0; length < whole.length; length++) {
    const file = join(folder, "short");
    writeFileSync(file, whole.subarray(0, length));
    await t.rejects(readSafetensors(file), { code: "MODEL_FILE_TRUNCATED" }, `${length} bytes`);
  }
});

t.test("a file cut off after it was opened is refused when the tensor is read", async (t) => {
  const file = join(t.testdir(), "shrinks");
  writeFileSync(file, craft({ x }, Buffer.alloc(8)));
  const source = await readSafetensors(file);
  truncateSync(file, readFileSync(file).length - 1);
  await t.rejects(source.readTensor("x"), { code: "MODEL_FILE_TRUNCATED" });
});

t.test(
  "damaged headers give a coded error or a file that can be read, never a crash",
  async (t) => {
    const file = join(t.testdir(), "damaged");
    const whole = craft({ x, y: { ...x, data_offsets: [8, 16] } }, Buffer.alloc(16));
    const damage = fc.record({
      at: fc.nat(whole.length - 17),
      byte: fc.integer({ min: 0, max: 255 }),
    });
    await fc.assert(
      fc.asyncProperty(damage, async ({ at, byte }) => {
        const bytes = Buffer.from(whole);
        bytes[at] = byte;
        writeFileSync(file, bytes);
        try {
          const source = await readSafetensors(file);
          for (const name of source.tensors.keys()) await source.readTensor(name);
        } catch (cause) {
          if (!(cause instanceof TrifoldError)) throw cause;
        }
      }),
      { numRuns: 300 },
    );
  },
);

t.test("a replaced file is the old or the new one, with nothing left beside it", async (t) => {
  const folder = t.testdir({ state: "old" });
  const file = join(folder, "state");
  const failing = replaceFile(file, async (handle) => {
    await handle.writeFile("half of the n");
    t.equal(readFileSync(file, "utf8"), "old", "the old content stands while the new is written");
    throw new Error("power");
  });
  await t.rejects(failing, { message: "power" });
  t.equal(readFileSync(file, "utf8"), "old");
  await writeFileAtomic(file, "new");
  t.equal(readFileSync(file, "utf8"), "new");
  t.same(readdirSync(folder), ["state"]);
  t.notOk(existsSync(`${file}.new`));
});

function invalid(title: string, bytes: Buffer) {
  return { title, bytes, code: "MODEL_FOLDER_INVALID", message: /lie\.safetensors/ };
}

function craft(header: object, data: Buffer): Buffer {
  return Buffer.concat([rawHeader(JSON.stringify(header)), data]);
}

function rawHeader(text: string): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([length, Buffer.from(text)]);
}

function hexOf(data: Float32Array): string {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("hex");
}
