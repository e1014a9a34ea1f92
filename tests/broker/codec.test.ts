import { createHash } from "node:crypto";
import { deflateRawSync } from "node:zlib";
import fc from "fast-check";
import { addExtension, Packr, pack } from "msgpackr";
import t from "tap";
// Bodies and msgpack are inside the library: what they refuse must be shown without a link around them.
import { createBody } from "../../broker/codec/body.ts";
import { encodeParted, readHead } from "../../broker/codec/envelope.ts";
import { unpack } from "../../broker/codec/msgpack.ts";
import {
  decodeEnvelope,
  defaultLimits,
  type Envelope,
  encodeEnvelope,
} from "../../broker/index.ts";
import { type EncodingName, encodeTensor, encodingNames } from "../../protocols/index.ts";
import { float32 } from "../../runtime/index.ts";
import { pseudoNoise } from "./pseudo-noise.ts";

const instance = "00112233445566ff";

const base: Envelope = {
  federation: "farm",
  task: "sotu",
  round: 3,
  attempt: 1,
  lane: 12,
  sender: "pi-4",
  instance,
  sequence: 7,
  kind: "lane",
  fields: {},
  tensors: new Map(),
  blobs: new Map(),
};

t.test("any envelope comes back as it was sent", async (t) => {
  const id = fc.stringMatching(/^[A-Za-z0-9_-]{1,64}$/);
  const count = fc.nat(0xffff_ffff);
  const hex = fc.stringMatching(/^[0-9a-f]{16}$/);
  const json = fc.jsonValue({ maxDepth: 4 }).map(withoutNegativeZero);
  const tensor = fc.oneof(
    fc.nat(40).chain((n) => bytesOf(4 * n, [n], "float32")),
    fc.nat(40).chain((n) => bytesOf(4 * n, [2, n], "bf16")),
    fc.integer({ min: 1, max: 40 }).chain((n) => bytesOf(5 * n + 1, [n], "int8")),
    fc.nat(40).chain((n) => bytesOf(2 + n, [2, n], "int4")),
    fc.nat(40).chain((n) => bytesOf(4 + n, [n], "topk")),
  );
  const envelope = fc.record({
    federation: id,
    task: fc.oneof(id, fc.constant("")),
    round: count,
    attempt: count,
    lane: count,
    sender: id,
    instance: hex,
    sequence: fc.integer({ min: 1, max: 0xffff_ffff }),
    kind: fc.constantFrom("lane", "join", "split/up.2"),
    replyTo: fc.option(
      fc.record({ instance: hex, sequence: fc.integer({ min: 1, max: 0xffff_ffff }) }),
      { nil: undefined },
    ),
    fields: fc.dictionary(fc.string({ maxLength: 20 }).filter(isOrdinaryKey), json),
    tensors: fc.dictionary(fc.constantFrom("a", "h.0.lora_A.weight", "logits"), tensor),
    blobs: fc.dictionary(
      fc.constantFrom("tokenizer.json", "b"),
      fc.uint8Array({ maxLength: 3000 }),
    ),
  });
  await fc.assert(
    fc.asyncProperty(envelope, async ({ replyTo, tensors, blobs, ...rest }) => {
      const sent: Envelope = {
        ...rest,
        ...(replyTo === undefined ? {} : { replyTo }),
        tensors: new Map(Object.entries(tensors)),
        blobs: new Map(Object.entries(blobs)),
      };
      t.strictSame(comparable(await decodeEnvelope(await encodeEnvelope(sent))), comparable(sent));
    }),
    { numRuns: 150 },
  );
});

t.test("tensors come back aligned and in copies of their own", async (t) => {
  const values = Float32Array.from({ length: 5 }, (_, index) => index / 3);
  const bytes = new Uint8Array(values.buffer);
  const blobs = new Map([["odd", Uint8Array.of(1, 2, 3)]]);
  const tensors = new Map([
    ["a", { shape: [1], encoding: "bf16", bytes: Uint8Array.of(9, 9) }],
    ["b", { shape: [5], encoding: "float32", bytes }],
  ] as const);
  const encoded = await encodeEnvelope({ ...base, tensors, blobs });
  const decoded = await decodeEnvelope(encoded);
  encoded.fill(0);
  const back = decoded.tensors.get("b")?.bytes ?? new Uint8Array();
  t.strictSame(new Float32Array(back.buffer, back.byteOffset, 5), values);
});

t.test("every encoding passes a header, and topk shrinks with what it drops", async (t) => {
  const values = float32(
    [40, 50],
    Float32Array.from(pseudoNoise(2000), (byte) => byte - 127),
  );
  const lengths = new Map<EncodingName, number>();
  for (const encoding of encodingNames) {
    const tensors = new Map([["w", encodeTensor(values, encoding)]]);
    const bytes = await encodeEnvelope({ ...base, tensors });
    t.strictSame((await decodeEnvelope(bytes)).tensors, tensors, encoding);
    lengths.set(encoding, bytes.byteLength);
  }
  // A tenth of 2000 values: 4 + 8 bytes of scales + 200 of codes + 5 bits for each index at most, and 250 of envelope.
  t.ok((lengths.get("topk") ?? 0) < 4 + 8 + 200 + 130 + 250);
});

t.test("deflate is used when it saves more than 5% and not otherwise", async (t) => {
  const compressible = new Map([["x", new Uint8Array(100_000)]]);
  const small = await encodeEnvelope({ ...base, blobs: compressible });
  t.ok(small.byteLength < 1000, `100,000 zeros take ${small.byteLength} bytes`);
  const noise = pseudoNoise(300_000);
  const large = await encodeEnvelope({ ...base, blobs: new Map([["x", noise]]) });
  // 44 bytes of preamble, 32 of checksum, and a header of about 150.
  t.ok(large.byteLength >= 300_000 && large.byteLength < 300_300, `${large.byteLength}`);
  t.same((await decodeEnvelope(large)).blobs.get("x"), noise);
});

t.test("the length of a message does not depend on its random instance", async (t) => {
  const fields = { text: "long enough to be deflated, again and again ".repeat(20) };
  const lengths = await Promise.all(
    ["0000000000000000", instance].map(async (name) => {
      return (await encodeEnvelope({ ...base, fields, instance: name })).byteLength;
    }),
  );
  t.equal(lengths[0], lengths[1]);
});

t.test("what may not travel is refused before it is sent, by its path", async (t) => {
  const refuse = (fields: Record<string, unknown>, message: RegExp) =>
    t.rejects(encodeEnvelope({ ...base, fields }), { code: "ENVELOPE_INVALID", message });
  await refuse({ a: { b: [1, Number.NaN] } }, /fields\.a\.b\[1\].*not finite/);
  await refuse({ a: new Map() }, /fields\.a.*not plain/);
  await refuse({ a: 1n }, /fields\.a.*not plain/);
  await refuse(nested(20), /nested too deep/);
  await refuse(JSON.parse('{"a":{"__proto__":1}}'), /fields\.a.*__proto__/);
  const big = { text: "x".repeat(70_000) };
  await t.rejects(encodeEnvelope({ ...base, fields: big }), { code: "ENVELOPE_TOO_LARGE" });
  const blobs = new Map([["x", new Uint8Array(2000)]]);
  await t.rejects(encodeEnvelope({ ...base, blobs }, { maxBytes: 1500 }), {
    code: "ENVELOPE_TOO_LARGE",
  });
  const wrong = { shape: [3], encoding: "float32", bytes: new Uint8Array(8) } as const;
  await t.rejects(encodeEnvelope({ ...base, tensors: new Map([["w", wrong]]) }), {
    code: "ENVELOPE_INVALID",
    message: /byte length does not follow/,
  });
  await t.rejects(encodeEnvelope({ ...base, sender: "a/b" }), { code: "ENVELOPE_INVALID" });
});

t.test("every truncation and every changed byte is refused", async (t) => {
  const fields = { loss: 0.5 };
  const good = await encodeEnvelope({ ...base, fields, blobs: new Map([["x", pseudoNoise(64)]]) });
  for (let length = 0; length < good.byteLength; length += 1) {
    await t.rejects(decodeEnvelope(good.subarray(0, length)), { code: /^ENVELOPE_/ });
  }
  for (let index = 0; index < good.byteLength; index += 1) {
    const bad = Uint8Array.from(good);
    bad[index] = (bad[index] ?? 0) ^ 0x41;
    await t.rejects(decodeEnvelope(bad), { code: /^ENVELOPE_/ }, `byte ${index}`);
  }
});

t.test("noise never gives anything but a coded error", async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), async (bytes) => {
      await t.rejects(decodeEnvelope(bytes), { code: /^ENVELOPE_/ });
      await t.rejects(decodeEnvelope(seal({ header: bytes })), { code: /^ENVELOPE_/ });
    }),
    { numRuns: 200 },
  );
});

t.test("declared sizes are bounded before anything is allocated", async (t) => {
  const header = pack(goodHeader);
  const code = "ENVELOPE_TOO_LARGE";
  await t.rejects(decodeEnvelope(seal({ header, rawBody: 0xffff_ffff })), { code });
  const body = deflateRawSync(Buffer.alloc(50_000_000));
  const blobs = [{ name: "bomb", byteLength: 1000 }];
  const bomb = seal({ header: pack({ ...goodHeader, blobs }), body, rawBody: 1000, bits: 2 });
  await t.rejects(decodeEnvelope(bomb), { code: "ENVELOPE_INVALID", message: /do not inflate/ });
  const tall = deflateRawSync(Buffer.alloc(40_000_000));
  await t.rejects(decodeEnvelope(seal({ header: tall, rawHeader: 60_000, bits: 1 })), {
    code: "ENVELOPE_INVALID",
  });
  await t.rejects(decodeEnvelope(seal({ header: tall, rawHeader: 70_000, bits: 1 })), {
    code: "ENVELOPE_INVALID",
  });
});

t.test("a header that contradicts its schema is refused", async (t) => {
  const bad: Record<string, unknown>[] = [
    { ...goodHeader, sender: "../../etc" },
    { ...goodHeader, kind: "" },
    { ...goodHeader, extra: 1 },
    { ...goodHeader, round: -1 },
    { ...goodHeader, lane: 1.5 },
    { ...goodHeader, error: { code: "lower case", message: "" } },
    { ...goodHeader, blobs: [{ name: "\u0000", byteLength: 0 }] },
    { ...goodHeader, tensors: [tensorHeader([2 ** 31], 0)] },
    { ...goodHeader, tensors: [tensorHeader([65_536, 65_536, 65_536], 8)] },
    { ...goodHeader, tensors: [tensorHeader([0], 0), tensorHeader([0], 0)] },
    { ...goodHeader, blobs: [{ name: "missing", byteLength: 10 }] },
  ];
  for (const header of bad) {
    await t.rejects(decodeEnvelope(seal({ header: pack(header) })), { code: "ENVELOPE_INVALID" });
  }
  t.equal((await decodeEnvelope(seal({ header: pack(goodHeader) }))).sender, "pi-4", "control");
});

t.test("only plain msgpack is unpacked", (t) => {
  const refuse = (bytes: Uint8Array, message: RegExp) =>
    t.throws(() => unpack(bytes), { code: "ENVELOPE_INVALID", message });
  refuse(Uint8Array.of(0xa2, 0xc3, 0x28), /not UTF-8/);
  refuse(new Uint8Array(60_000).fill(0x91), /limit/);
  refuse(Uint8Array.of(0xdd, 0xff, 0xff, 0xff, 0xff), /limit/);
  refuse(Uint8Array.of(0xc4, 1, 0), /0xc4 may not travel/);
  refuse(Uint8Array.of(0x81, 1, 1), /key is not a string/);
  refuse(Uint8Array.of(1, 1), /bytes follow/);
  refuse(Uint8Array.of(), /end early/);
  refuse(pack(new Date(0)), /may not travel/);
  refuse(new Packr({ useRecords: true }).pack({ a: 1, b: 2 }), /may not travel/);
  addExtension({ type: 77, pack: () => Buffer.of(1), Class: RegExp });
  refuse(pack(/x/), /may not travel/);
  t.strictSame(unpack(pack({ a: [1, -1, 1.5, null, true, "ä", 2 ** 40] })), {
    a: [1, -1, 1.5, null, true, "ä", 2 ** 40],
  });
  t.end();
});

t.test("a body that goes apart is held to its hash and length", async (t) => {
  const blobs = new Map([["x", pseudoNoise(40_000)]]);
  const { message, body } = await encodeParted({ ...base, blobs });
  t.ok(message.byteLength < 400 && body?.bytes.byteLength === 40_000);
  t.match(readHead(message), { sequence: base.sequence, body: { byteLength: 40_000 } });
  t.same((await decodeEnvelope(message, defaultLimits, body)).blobs, blobs);
  const changed = Uint8Array.from(body?.bytes ?? []);
  changed[7] = 1 + (changed[7] ?? 0);
  for (const wrong of [undefined, createBody(changed), createBody(changed.subarray(1))]) {
    await t.rejects(decodeEnvelope(message, defaultLimits, wrong), { code: "ENVELOPE_INVALID" });
  }
  await t.rejects(decodeEnvelope(message, { maxBytes: 30_000 }, body), {
    code: "ENVELOPE_TOO_LARGE",
  });
  t.throws(() => readHead(message, { maxBytes: 30_000 }), { code: "ENVELOPE_TOO_LARGE" });
});

const goodHeader = {
  federation: "farm",
  task: "",
  round: 0,
  attempt: 0,
  lane: 0,
  sender: "pi-4",
  kind: "join",
  fields: {},
  tensors: [],
  blobs: [],
};

function tensorHeader(shape: number[], byteLength: number) {
  return { name: "w", shape, encoding: "float32", byteLength };
}

/** An envelope with a valid checksum around whatever an attacker likes; layout as in broker/README.md. */
function seal(parts: {
  header: Uint8Array;
  body?: Uint8Array;
  rawHeader?: number;
  rawBody?: number;
  bits?: number;
}): Uint8Array {
  const body = parts.body ?? new Uint8Array(0);
  const preamble = Buffer.alloc(44);
  preamble.write("TF");
  preamble.writeUInt8(1, 2);
  preamble.writeUInt8(parts.bits ?? 0, 3);
  preamble.writeUInt32LE(parts.header.byteLength, 4);
  preamble.writeUInt32LE(parts.rawHeader ?? parts.header.byteLength, 8);
  preamble.writeUInt32LE(body.byteLength, 12);
  preamble.writeUInt32LE(parts.rawBody ?? body.byteLength, 16);
  const checked = Buffer.concat([preamble, parts.header, body]);
  return Buffer.concat([checked, createHash("sha256").update(checked).digest()]);
}

function bytesOf<E extends string>(length: number, shape: number[], encoding: E) {
  return fc
    .uint8Array({ minLength: length, maxLength: length })
    .map((bytes) => ({ shape, encoding, bytes }));
}

function comparable({ tensors, blobs, ...rest }: Envelope) {
  const entries = [...tensors].map(([name, { shape, encoding, bytes }]) => {
    return [name, shape, encoding, Buffer.from(bytes).toString("hex")];
  });
  const raw = [...blobs].map(([name, bytes]) => [name, Buffer.from(bytes).toString("hex")]);
  return { ...structuredClone(rest), tensors: entries, blobs: raw };
}

function nested(depth: number): Record<string, unknown> {
  return depth === 0 ? {} : { a: nested(depth - 1) };
}

/** Refused, and tested by itself. */
function isOrdinaryKey(key: string): boolean {
  return key !== "__proto__";
}

/** Msgpack's whole numbers have no negative zero. */
function withoutNegativeZero(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (key, member) => (isOrdinaryKey(key) ? member : undefined)),
  );
}
