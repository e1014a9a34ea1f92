// What a cut does not send twice, and what it owes: temporal reuse of activations, error feedback of gradients.
import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import t from "tap";
import { builtInProtocols, rowsInMemory } from "../../protocols/index.ts";
import { crossingsOf, decodeCrossing } from "../../protocols/split/crossing.ts";
import { gradientSender } from "../../protocols/split/gradient-sender.ts";
import { recall, remember } from "../../protocols/split/memories.ts";
import { meetMemory, receiveRows, rowMemory, rowModes } from "../../protocols/split/reuse.ts";
import { sendRows } from "../../protocols/split/row-sender.ts";
import { rowStore } from "../../protocols/split/row-store.ts";
import { largestPart } from "../../protocols/split/sparse-change.ts";
import { adaptiveThreshold } from "../../protocols/split/threshold.ts";
import { type Float32Tensor, float32, randomStream } from "../../runtime/index.ts";
import { openFederation, type Round, type ToyDevice } from "./loopback.ts";
import { openToy, toyExamples } from "./toy.ts";

const layout = { batch: 3, sequence: 4, hidden: 8 };
const sizes = { cacheBytes: 1e6, layout };
const batch = { lengths: [4, 2, 3], texts: [0, 1, 2] };

/** A padded batch of rows that have moved by `moved` of their size. */
function activations(key: number, moved = 0): Float32Tensor {
  const start = randomStream("rows", key);
  const motion = randomStream("motion", key, moved);
  const values = Array.from({ length: 3 * 4 * 8 }, () => start.normal() + moved * motion.normal());
  return float32([3 * 4, 8], values);
}

t.test("rows travel whole, as a change or not at all, by how far they moved", (t) => {
  const [device, coordinator] = [rowMemory(1e6, layout), rowMemory(1e6, layout)];
  const options = {
    memory: device,
    layout,
    outliers: 0,
    threshold: 0.05,
    encoding: "float32",
    changes: "int8",
  } as const;
  const modesOf = (moved: number) => {
    const message = sendRows(options, activations(1, moved), batch);
    receiveRows(coordinator, layout, message).keep();
    t.equal(device.digest, coordinator.digest, "both ends remember the same");
    return message.modes;
  };
  const { kept, change, whole } = rowModes;
  t.same(modesOf(0), [whole, whole, whole], "nothing is known at first");
  t.same(modesOf(0.01), [kept, kept, kept]);
  t.same(modesOf(0.2), [change, change, change]);
  t.same(modesOf(3), [whole, whole, whole], "four times their own size away");
  t.end();
});

for (const changes of ["int4", "topk"] as const) {
  t.test(
    `what a coordinator makes of rows is never further away than the threshold: ${changes}`,
    (t) => {
      const someMoves = fc.array(fc.double({ min: 0, max: 2, noNaN: true }), { maxLength: 8 });
      fc.assert(
        fc.property(someMoves, (moves) => {
          const [device, coordinator] = [rowMemory(1e6, layout), rowMemory(1e6, layout)];
          const known = { memory: device, layout, outliers: 0 };
          const options = { ...known, threshold: 0.1, encoding: "int8", changes } as const;
          for (const moved of moves) {
            const now = activations(2, moved);
            const message = sendRows(options, now, batch);
            const arrived = receiveRows(coordinator, layout, message);
            arrived.keep();
            // int4 errs by a tenth of a change, which is at most half of a row; int8 by a hundredth of what topk keeps.
            if (distance(now, arrived.activations) > 0.1 + 0.01) return false;
          }
          return device.digest === coordinator.digest;
        }),
        { numRuns: 50 },
      );
      t.end();
    },
  );
}

t.test("the largest part of a change leaves no more than the rest, and no value too many", (t) => {
  const someValues = fc.array(fc.integer({ min: -100, max: 100 }), { minLength: 1 });
  fc.assert(
    fc.property(someValues, fc.double({ min: 0, max: 300, noNaN: true }), (values, rest) => {
      const change = Float32Array.from(values);
      const part = largestPart(change, rest);
      const dropped = change.filter((_, i) => part[i] === 0);
      const least = part.reduce(
        (low, value) => (value === 0 ? low : Math.min(low, Math.abs(value))),
        Number.POSITIVE_INFINITY,
      );
      const isNear = Math.hypot(...dropped) <= rest + 1e-9;
      const needsAll =
        least === Number.POSITIVE_INFINITY ||
        Math.hypot(...dropped, ...equalTo(change, least)) > rest;
      return isNear && needsAll && part.every((value, i) => value === 0 || value === change[i]);
    }),
  );
  t.end();
});

function equalTo(values: Float32Array, magnitude: number): Float32Array {
  return values.filter((value) => Math.abs(value) === magnitude);
}

/** Largest relative distance of a row's real tokens. */
function distance(a: Float32Tensor, b: Float32Tensor): number {
  return Math.max(
    ...batch.lengths.map((length, row) => {
      const [from, to] = [row * 32, row * 32 + length * 8];
      const norm = (values: readonly number[]) => Math.hypot(...values);
      const [x, y] = [[...a.data.subarray(from, to)], [...b.data.subarray(from, to)]];
      return norm(x.map((value, i) => value - (y[i] as number))) / norm(x);
    }),
  );
}

t.test("ends that remember other rows do not go on", (t) => {
  const memory = rowMemory(1e6, layout);
  const options = {
    memory,
    layout,
    outliers: 0,
    threshold: 0.05,
    encoding: "int8",
    changes: "int4",
  } as const;
  const message = sendRows(options, activations(1), batch);
  const elsewhere = rowMemory(1e6, layout);
  const outOfTurn = { code: "PROTOCOL_OUT_OF_TURN" };
  t.throws(() => meetMemory(elsewhere, memory.digest, true), outOfTurn);
  t.throws(() => meetMemory(memory, "", false), outOfTurn, "forgetting within a lane");
  meetMemory(memory, "", true);
  t.equal(memory.digest, "", "a device that starts afresh starts both");
  const { modes: _, ...rest } = message;
  const invalid = { code: "PROTOCOL_PAYLOAD_INVALID" };
  t.throws(
    () => receiveRows(elsewhere, layout, { ...rest, tensors: new Map(), modes: [0, 0, 0] }),
    invalid,
  );
  t.throws(() => receiveRows(elsewhere, layout, { ...rest, modes: [2, 2] }), invalid);
  t.throws(() => receiveRows(elsewhere, layout, { ...message, tensors: new Map() }), {
    code: "PROTOCOL_SHAPE_MISMATCH",
  });
  t.equal(elsewhere.digest, "", "a refused message leaves no trace");
  t.end();
});

t.test("a store keeps as many rows as its bytes allow, always of the same texts", (t) => {
  // A row of 4 x 8 values takes 64 bytes in bf16: two fit.
  const store = rowStore({ ...sizes, cacheBytes: 191, encoding: "bf16" });
  for (const text of [2, 1, 0]) store.set(text, new Float32Array(32).fill(text + 1));
  t.same(
    [0, 1, 2].map((text) => store.get(text)?.[0]),
    [1, 2, undefined],
  );
  t.end();
});

t.test("a threshold widens while the loss of an epoch falls and narrows when it rises", (t) => {
  const threshold = adaptiveThreshold(2);
  const values = [2, 2, 1, 1, 1.5, 1.5].map((loss) => {
    threshold.note(loss);
    return Number(threshold.value.toFixed(6));
  });
  t.same(values, [0.02, 0.03, 0.03, 0.045, 0.045, 0.0225]);
  for (let i = 0; i < 50; i++) threshold.note(1 / (i + 2));
  t.equal(threshold.value, 0.06, "bounded");
  t.end();
});

t.test("what an encoding loses of a text's gradient comes with that text again", (t) => {
  const crossing = {
    name: "gradient",
    layout,
    encoding: "int4",
    keepFraction: 0.1,
    outliers: 0,
  } as const;
  const sums = [0, 1].map((feedback) => {
    const owed = feedback ? rowStore({ ...sizes, encoding: "float32" }) : undefined;
    const sender = gradientSender(crossing, owed);
    const sum = new Float64Array(96);
    for (let i = 0; i < 20; i++) {
      const sent = sender.encode(activations(3), batch);
      decodeCrossing(crossing, sent, batch.lengths).data.forEach((value, place) => {
        sum[place] = (sum[place] ?? 0) + value;
      });
    }
    return float32(
      [12, 8],
      Float32Array.from(sum, (value) => value / 20),
    );
  });
  const [without = 1, feedback = 1] = sums.map((mean) => distance(activations(3), mean));
  t.ok(without > 0.05, `int4 alone errs by ${without}`);
  // What is still owed after 20 sendings is at most one loss: a twentieth of it a sending.
  t.ok(feedback < without / 10, `with feedback by ${feedback}`);
  t.end();
});

t.test(
  "reuse spares bytes over rounds, and a device that lost its memory starts afresh",
  async (t) => {
    const toy = await openToy(t);
    const device: ToyDevice = {
      id: "a",
      protocol: "split",
      cutLayer: 1,
      train: toyExamples("a", 12),
    };
    const bytesOf = async (split: object, forgetful = false) => {
      const task = toy.task({ split: { activations: "int8", gradients: "int4", ...split } });
      let federation = await openFederation(toy, task, [device]);
      let { start: global } = federation;
      const bytes: number[] = [];
      for (let i = 0; i < 3; i++) {
        if (forgetful && i === 2) federation = await openFederation(toy, task, [device]);
        const round = await federation.round(global);
        global = round.global;
        const { ups = [] } = round.devices.get("a") ?? {};
        const sent = ups.filter(({ kind }) => kind === "activations");
        const sizesOf = sent.flatMap(({ tensors }) => [...tensors.values()]);
        bytes.push(sizesOf.reduce((sum, tensor) => sum + tensor.bytes.length, 0));
      }
      await federation.close();
      return { bytes, parameters: global.parameters };
    };
    const plain = await bytesOf({});
    const reused = await bytesOf({ errorFeedback: true, reuse: { threshold: 0.2 } });
    const again = await bytesOf({ errorFeedback: true, reuse: { threshold: 0.2 } });
    t.ok(isDeepStrictEqual(reused, again), "equal runs give equal bytes");
    const share = (i: number) => (reused.bytes[i] as number) / (plain.bytes[i] as number);
    t.ok(share(1) < 0.6 && share(2) < 0.6, `rounds 2 and 3 take ${share(1)} and ${share(2)}`);
    const lost = await bytesOf({ errorFeedback: true, reuse: { threshold: 0.2 } }, true);
    t.ok(
      (lost.bytes[2] as number) > 1.2 * (reused.bytes[2] as number),
      `${lost.bytes} ${reused.bytes}`,
    );
  },
);

t.test(
  "what a lane left is gone on with only if it was accepted, at both ends alike",
  async (t) => {
    const toy = await openToy(t);
    const device: ToyDevice = {
      ...{ id: "a", protocol: "split", cutLayer: 1 },
      train: toyExamples("a", 12),
    };
    const narrow = { activations: "int8", gradients: "int4", errorFeedback: true };
    for (const options of [
      { ...narrow, reuse: { threshold: "adaptive" } },
      { ...narrow, reuse: { threshold: 0.1 }, uShape: true },
      { ...narrow, uShape: true },
    ]) {
      const task = toy.task({ split: options, labelsMayLeave: true });
      const contentOf = ({ global, devices }: Round) => {
        const { ups, downs } = devices.get("a") ?? {};
        return { global, ups, downs };
      };
      const attempts = await openFederation(toy, task, [device]);
      const first = await attempts.round(attempts.start);
      const rejected = await attempts.round(first.global, { accepted: false });
      const repeated = await attempts.round(first.global);
      const next = await attempts.round(repeated.global);
      await attempts.close();
      const federation = await openFederation(toy, task, [device]);
      const begun = await federation.round(federation.start);
      const second = await federation.round(begun.global);
      const third = await federation.round(second.global);
      await federation.close();
      const alone = await openFederation(toy, task, [device]);
      const forgetful = await alone.round(first.global);
      await alone.close();
      t.ok(
        isDeepStrictEqual(contentOf(repeated), contentOf(rejected)),
        "an attempt like the first",
      );
      t.ok(isDeepStrictEqual(contentOf(repeated), contentOf(second)), "as if there had been one");
      t.ok(isDeepStrictEqual(contentOf(next), contentOf(third)), "and is gone on with");
      t.notOk(
        isDeepStrictEqual(contentOf(second), contentOf(forgetful)),
        "it went on from round 1",
      );
    }
  },
);

t.test("a device that is cut elsewhere begins with nothing", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ split: { reuse: { threshold: 0.1 } } });
  const keeper = rowsInMemory();
  const memoryAt = (cutLayer: number, acceptedLane: number) => {
    const cuts = { cutLayer };
    const crossings = crossingsOf(task, cuts);
    const of = { task, cuts, crossings, gradient: "cutGradient" } as const;
    return recall(keeper, of, { acceptedLane });
  };
  const memory = await memoryAt(1, 0);
  t.equal(memory.sent?.digest, "");
  memory.sent?.store.set(3, new Float32Array(32).fill(0.5));
  await remember(keeper, memory, { cutLayer: 1, lane: 4, acceptedLane: 0 });
  t.not((await memoryAt(1, 4)).sent?.digest, "");
  t.same((await memoryAt(1, 4)).sent?.store.get(3), new Float32Array(32).fill(0.5));
  t.equal((await memoryAt(2, 4)).sent?.digest, "");
  t.equal((await memoryAt(1, 3)).sent?.digest, "", "nor behind another lane");
});

t.test("an estimate counts the rows of as many texts as there are", async (t) => {
  const toy = await openToy(t);
  const rows = { cacheBytes: 100_000, reuse: { threshold: 0.1 }, errorFeedback: true };
  const task = toy.task({ split: { ...rows, uShape: true, tailLayers: 1 } });
  const bare = toy.task({ split: { uShape: true, tailLayers: 1 } });
  const protocol = builtInProtocols.find(({ name }) => name === "split");
  const keptBytes = (texts: { train?: number; holdOut: number }) => {
    const [kept = 0, none = 0] = [task, bare].map(
      (one) => protocol?.estimate(one, { cutLayer: 1, ...texts }).peakMemoryBytes,
    );
    return kept - none;
  };
  // A text of 12 x 32 values takes 768 bytes in bf16 and 1536 in float32.
  t.equal(keptBytes({ train: 20, holdOut: 5 }), 25 * 768 + 20 * 1536);
  t.equal(keptBytes({ train: 100, holdOut: 5 }), 105 * 768 + 100_000);
  t.equal(keptBytes({ holdOut: 5 }), 200_000, "as many as may be kept where nobody knows");
});
