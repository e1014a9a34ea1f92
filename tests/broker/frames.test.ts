// Frames and the pieces that they carry, without a link around them.
import { crc32 } from "node:zlib";
import fc from "fast-check";
import t from "tap";
import { createAssembler } from "../../broker/codec/assembler.ts";
import {
  type ChunkFrame,
  decodeFrame,
  encodeFrame,
  type Frame,
} from "../../broker/codec/frames.ts";
import { pseudoNoise } from "./pseudo-noise.ts";

const instance = "00112233445566ff";

/** Five units, the last one short. */
const whole = pseudoNoise(4 * 4096 + 1000);

t.test("frames come back as they were sent", (t) => {
  const message = "ffeeddccbbaa9988";
  const payload = Buffer.of(1, 2, 3);
  const frames: Frame[] = [
    { kind: "chunk", instance, message, isBody: false, offset: 0, totalBytes: 3, payload },
    { kind: "chunk", instance, message, isBody: true, offset: 8192, totalBytes: 8195, payload },
    { kind: "state", instance, message, isComplete: false, probe: 3, units: payload },
    { kind: "probe", instance, message, probe: 70_000 },
    { kind: "drop", instance, message },
    { kind: "hello", instance },
  ];
  for (const frame of frames) {
    t.strictSame(decodeFrame(encodeFrame(frame)), frame, frame.kind);
  }
  t.end();
});

t.test("hostile frames are refused", (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      t.throws(() => decodeFrame(bytes), { code: "ENVELOPE_INVALID" });
      try {
        const frame = decodeFrame(sealFrame(Uint8Array.of(0xf2, 1, ...bytes))) as ChunkFrame;
        t.ok(frame.payload.byteLength <= frame.totalBytes);
      } catch (error) {
        t.match(error, { code: "ENVELOPE_INVALID" });
      }
    }),
    { numRuns: 300, examples: [[Uint8Array.of()]] },
  );
  const refused = (chunk: ChunkFrame, why: string) =>
    t.throws(() => decodeFrame(encodeFrame(chunk)), { code: "ENVELOPE_INVALID" }, why);
  refused({ ...chunkOf(0), payload: whole.subarray(0, 100) }, "part of a unit");
  refused({ ...chunkOf(0), offset: 5 }, "between units");
  refused({ ...chunkOf(1), offset: 4096 * 9 }, "past the end");
  t.end();
});

t.test("a frame that was changed on its way is refused, whichever bit it was", (t) => {
  const good = encodeFrame(chunkOf(2));
  for (let bit = 0; bit < 8 * good.byteLength; bit += 7) {
    const bad = Uint8Array.from(good);
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    t.throws(() => decodeFrame(bad), { code: "ENVELOPE_INVALID" });
  }
  t.end();
});

t.test("pieces of any size make the message in any order, doubled or not", (t) => {
  const pieces = [chunkOf(0, 2), chunkOf(1), chunkOf(1, 3), chunkOf(3), chunkOf(4)];
  fc.assert(
    fc.property(
      fc.shuffledSubarray(pieces, { minLength: 5 }),
      fc.array(fc.constantFrom(...pieces), { maxLength: 6 }),
      (order, doubles) => {
        const assembler = createAssembler({ maxMessageBytes: 20_000, maxOpen: 2 });
        // The last unit is in one piece alone.
        const last = chunkOf(4);
        const before = [...order, ...doubles].filter(({ offset }) => offset !== last.offset);
        for (const piece of before) {
          t.equal(assembler.add(piece).kind, "partial");
        }
        const result = assembler.add(last);
        t.equal(result.kind === "complete" && Buffer.compare(result.bytes, whole), 0);
      },
    ),
  );
  t.end();
});

t.test("an assembler holds no more than its limits", (t) => {
  const forgotten: string[] = [];
  const limits = { maxMessageBytes: 20_000, maxOpen: 2 };
  const assembler = createAssembler(limits, (message) => forgotten.push(message));
  const open = (message: string) => assembler.add({ ...chunkOf(0), message });
  t.throws(() => assembler.add({ ...chunkOf(0), totalBytes: 20_001 }), {
    code: "ENVELOPE_TOO_LARGE",
  });
  open("a");
  t.throws(() => assembler.add({ ...chunkOf(1), message: "a", totalBytes: 15_000 }), {
    code: "ENVELOPE_INVALID",
    message: /disagree/,
  });
  open("b");
  open("c");
  t.equal(assembler.unitsOf("a"), undefined, "the oldest made room");
  t.strictSame(forgotten, ["a"]);
  t.strictSame([...(assembler.unitsOf("b") ?? [])], [1]);
  assembler.drop("b");
  t.equal(assembler.unitsOf("b"), undefined);
  assembler.add({ ...chunkOf(0), message: "d", isBody: true });
  assembler.forgetMessages();
  t.equal(assembler.unitsOf("c"), undefined);
  t.ok(assembler.unitsOf("d"), "a body is what it is whoever sends it");
  t.end();
});

/** So many units from one on. */
function chunkOf(unit: number, units = 1): ChunkFrame {
  const offset = 4096 * unit;
  const payload = whole.subarray(offset, offset + 4096 * units);
  const message = "ffeeddccbbaa9988";
  const totalBytes = whole.byteLength;
  return { kind: "chunk", instance, message, isBody: false, offset, totalBytes, payload };
}

/** The bytes of a frame with the CRC-32 that they should have. */
function sealFrame(bytes: Uint8Array): Uint8Array {
  const end = Buffer.alloc(4);
  end.writeUInt32LE(crc32(bytes));
  return Buffer.concat([bytes, end]);
}
