// Selection over the catalogue's boards: what limits decide, and that nothing else does.
import fc from "fast-check";
import t from "tap";
import { readFields, startSchema } from "../../apps/control-messages.ts";
import {
  boardKeys,
  boardProfile,
  type DeviceBudget,
  type DeviceProfile,
} from "../../devices/index.ts";
import {
  type Candidate,
  requireAssignment,
  type Selection,
  selectAssignment,
} from "../../protocols/selection.ts";

const MB = 1e6;
const order = ["full", "split", "kd"];

// The proportions of the article: split spares memory and moves the most, kd moves the least.
const candidates: readonly Candidate[] = [
  {
    protocol: "full",
    version: 1,
    cost: cost({ memory: 86.2 * MB, up: 0.3 * MB, down: 0.3 * MB, flops: 240e9, trips: 1 }),
  },
  ...[3, 1, 2].map((cutLayer) => ({
    protocol: "split",
    version: 2,
    cutLayer,
    cost: cost({
      memory: (25 + 10 * cutLayer) * MB,
      up: 4.9 * MB,
      down: 9.8 * MB,
      flops: cutLayer * 55e9,
      trips: 25,
    }),
  })),
  {
    protocol: "kd",
    version: 1,
    cost: cost({ memory: 92 * MB, up: 0.02 * MB, down: 0.02 * MB, flops: 300e9, trips: 2 }),
  },
];

function cost(c: Readonly<Record<"memory" | "up" | "down" | "flops" | "trips", number>>) {
  return {
    peakMemoryBytes: c.memory,
    uplinkBytes: c.up,
    downlinkBytes: c.down,
    flops: c.flops,
    roundTrips: c.trips,
  };
}

function select(profile: DeviceProfile, budget: DeviceBudget = {}): Selection {
  return selectAssignment({ deviceId: "d1", profile, budget, candidates, order });
}

function choice(profile: DeviceProfile, budget: DeviceBudget = {}): string {
  const { assignment } = select(profile, budget);
  return assignment ? `${assignment.protocol} ${assignment.cutLayer ?? ""}`.trim() : "none";
}

t.test("every board takes the task's first choice when nothing is limited", async (t) => {
  for (const key of boardKeys) t.equal(choice(boardProfile(key)), "full", key);
});

t.test("each limit that rejects, relaxed, changes the assignment of every board", async (t) => {
  // A round of full: 240 GFLOP at 6 GFLOP/s is 40 s, at 80 GFLOP/s 3 s; kd takes a quarter longer.
  const cases: readonly (readonly [DeviceBudget, string, keyof DeviceBudget, number, string])[] = [
    [{ trainingMemoryBytes: 48 * MB }, "split 1", "trainingMemoryBytes", 87 * MB, "full"],
    [{ trainingMemoryBytes: 34 * MB }, "none", "trainingMemoryBytes", 36 * MB, "split 1"],
    [{ uplinkBytesPerRound: 0.1 * MB }, "kd", "uplinkBytesPerRound", 0.4 * MB, "full"],
    [{ downlinkBytesPerRound: 0.1 * MB }, "kd", "downlinkBytesPerRound", 0.4 * MB, "full"],
    [{ bytesPerRound: 0.5 * MB }, "kd", "bytesPerRound", 0.7 * MB, "full"],
    [{ secondsPerRound: 0.01 }, "none", "secondsPerRound", 3600, "full"],
    [{ joulesPerRound: 1 }, "none", "joulesPerRound", 1e6, "full"],
  ];
  for (const key of boardKeys) {
    const profile = boardProfile(key);
    for (const [budget, before, limit, relaxed, after] of cases) {
      t.equal(choice(profile, budget), before, `${key} under ${JSON.stringify(budget)}`);
      t.equal(choice(profile, { ...budget, [limit]: relaxed }), after, `${key}, ${limit} relaxed`);
    }
  }
});

t.test("the profile's own figures decide too: memory, rate, link, round trip, power", async (t) => {
  const zero = boardProfile("pi-zero-2w");
  const figure = (value: number) => ({ value, origin: "measured" }) as const;
  const memory = { ...zero.memory, availableBytes: figure(50 * MB) };
  t.equal(choice({ ...zero, memory }), "split 1");
  t.equal(choice({ ...zero, memory: { ...zero.memory, limitBytes: figure(50 * MB) } }), "split 1");

  // Full: 240e9 / 6e9 = 40 s and 0.6 MB over 20 Mbit/s = 0.24 s. Split: 9.17 s + 5.88 s + 25 trips.
  t.equal(choice(zero, { secondsPerRound: 41 }), "full");
  t.equal(choice(zero, { secondsPerRound: 40 }), "split 1");
  const far = { ...zero, link: { ...zero.link, roundTripMs: figure(1000) } };
  t.equal(choice(far, { secondsPerRound: 40 }), "none", "25 round trips of a second");
  const fast = { ...zero, gemmFlopsPerSecond: figure(12e9) };
  t.equal(choice(fast, { secondsPerRound: 40 }), "full");
  // 40.25 s at 2.1 W are 84.5 J.
  t.equal(choice(zero, { joulesPerRound: 85 }), "full");
  t.equal(choice(zero, { joulesPerRound: 84 }), "split 1");
});

t.test("a round's seconds are work, bytes and waiting, added", async (t) => {
  const { table } = select(boardProfile("pi-zero-2w"));
  const seconds = table[0]?.figures.find(({ name }) => name === "seconds")?.value;
  // 240e9 / 6e9 + 8 * 0.6e6 / 20e6 + 1 * 0.005, to float64 rounding.
  t.ok(Math.abs((seconds ?? 0) - 40.245) < 1e-9);
});

t.test("neither the board's name nor the device's id changes the choice", async (t) => {
  const budgets = [{}, { trainingMemoryBytes: 48 * MB }, { uplinkBytesPerRound: 0.1 * MB }];
  for (const key of boardKeys) {
    for (const budget of budgets) {
      const profile = boardProfile(key);
      const renamed = { ...profile, board: { key: "agx-orin", model: "Raspberry Pi Zero 2 W" } };
      const input = { budget, candidates, order };
      const a = selectAssignment({ ...input, deviceId: "x", profile });
      const b = selectAssignment({ ...input, deviceId: "jetson", profile: renamed });
      t.same({ ...b.assignment, deviceId: "x" }, a.assignment);
      t.same(b.table, a.table);
    }
  }
});

t.test("the reason says what spoke against the others, with figure and limit", async (t) => {
  const zero = boardProfile("pi-zero-2w");
  t.same(select(zero, { trainingMemoryBytes: 48 * MB }).assignment, {
    deviceId: "d1",
    protocol: "split",
    protocolVersion: 2,
    cutLayer: 1,
    reason:
      "split (cut 1): full needs 86.2 MB of 48.0 MB training memory; kd needs 92.0 MB of 48.0 MB training memory",
  });
  t.equal(
    select(boardProfile("pi-4"), { uplinkBytesPerRound: 0.1 * MB }).assignment?.reason,
    "kd: full needs 300.0 kB of 100.0 kB uplink a round; split (cut 1) needs 4.90 MB of 100.0 kB uplink a round",
  );
  t.match(select(zero).assignment?.reason, /^full: first in the task's order, takes 86\.2 MB of /);
});

t.test("figures that would look equal are written out", async (t) => {
  const { table } = select(boardProfile("pi-5"), { trainingMemoryBytes: 86.2 * MB - 1 });
  t.match(table[0]?.text, "full needs 86200000 of 86199999 bytes training memory");
});

t.test("the table judges every candidate and names every broken limit", async (t) => {
  const { table } = select(boardProfile("pi-zero-2w"), {
    trainingMemoryBytes: 48 * MB,
    bytesPerRound: 0.1 * MB,
  });
  t.same(
    table.map(({ candidate: { protocol, cutLayer }, rejections }) => [
      protocol,
      cutLayer,
      rejections.map(({ name }) => name),
    ]),
    [
      ["full", undefined, ["peakMemoryBytes", "bytes"]],
      ["split", 1, ["bytes"]],
      ["split", 2, ["bytes"]],
      ["split", 3, ["peakMemoryBytes", "bytes"]],
      ["kd", undefined, ["peakMemoryBytes"]],
    ],
  );
  const [, split] = table;
  t.match(split?.rejections[0], { value: 14.7 * MB, limit: 0.1 * MB, unit: "bytes" });
});

t.test("without a feasible candidate the error holds the whole table", async (t) => {
  const selection = select(boardProfile("pi-4"), { trainingMemoryBytes: 10 * MB });
  t.equal(selection.assignment, undefined);
  t.throws(() => requireAssignment("d1", selection), {
    code: "SELECTION_IMPOSSIBLE",
    message: /^device d1: full needs.*split \(cut 1\) needs.*split \(cut 3\).*kd needs 92/,
    hint: /Raise one of the limits/,
  });
  t.throws(() => requireAssignment("d1", { table: [] }), { message: /no candidates/ });
});

t.test("an assignment carries the whole way, and people read it", async (t) => {
  const [whole] = candidates;
  const way = { cutLayer: 1, mode: "blocks-int8", rank: 4, encoding: "int8" } as const;
  const input = { deviceId: "d1", profile: boardProfile("pi-5"), budget: {}, order };
  const only = [{ ...(whole as Candidate), ...way }];
  const { assignment } = selectAssignment({ ...input, candidates: only });
  t.match(assignment, { ...way, reason: /^full \(cut 1, blocks-int8, rank 4, int8\): / });
  const { deviceId: _, ...chosen } = { ...assignment, globalStep: 0, acceptedLane: 0 };
  const fields = { ...chosen, isReassigned: false, payload: { kind: "model", fields: {} } };
  t.same(readFields({ kind: "start", fields }, startSchema), fields, "as it travels");
  t.throws(() => readFields({ kind: "start", fields: { ...fields, rank: 0 } }, startSchema), {
    code: "PROTOCOL_PAYLOAD_INVALID",
    message: /"start": rank/,
  });
});

t.test("a task's limit holds beside the device's own, and the stricter one is named", async (t) => {
  const input = { deviceId: "d1", profile: boardProfile("pi-5"), candidates, order };
  const fields: readonly (readonly [keyof DeviceBudget, number, number])[] = [
    // A limit that full breaks, and one that nothing does. Full takes 0.6 MB and 3 s at 80 GFLOP/s, at 8 W and more.
    ["trainingMemoryBytes", 48 * MB, 200 * MB],
    ["uplinkBytesPerRound", 0.1 * MB, 20 * MB],
    ["downlinkBytesPerRound", 0.1 * MB, 20 * MB],
    ["bytesPerRound", 0.5 * MB, 20 * MB],
    ["secondsPerRound", 0.01, 3600],
    ["joulesPerRound", 1, 1e6],
  ];
  const full = (budget: DeviceBudget, limits: DeviceBudget) =>
    selectAssignment({ ...input, budget, limits }).table[0];
  for (const [name, strict, loose] of fields) {
    t.match(full({}, { [name]: strict }), { feasible: false, text: /, the task's limit/ }, name);
    t.match(full({ [name]: loose }, { [name]: strict })?.text, /, the task's limit/, name);
    const own = full({ [name]: strict }, { [name]: loose });
    t.equal(own?.feasible, false, name);
    t.notMatch(own?.text, /the task's limit/, name);
    t.equal(full({ [name]: loose }, { [name]: loose })?.feasible, true, name);
  }
});

t.test("the declared order wins, and what it leaves out is not used", async (t) => {
  const profile = boardProfile("pi-5");
  const input = { deviceId: "d1", profile, budget: {}, candidates };
  t.equal(selectAssignment({ ...input, order: ["kd", "full"] }).assignment?.protocol, "kd");
  const { assignment, table } = selectAssignment({ ...input, order: ["split"] });
  t.equal(assignment?.cutLayer, 1, "the lightest cut");
  t.match(table.at(-1)?.text, "is not among the task's protocols (split)");
});

t.test(
  "among cuts the least memory wins, then the least work, then the smallest cut",
  async (t) => {
    const cut = (cutLayer: number, memory: number, flops: number): Candidate => {
      const costs = cost({ memory, up: 1, down: 1, flops, trips: 1 });
      return { protocol: "split", version: 1, cutLayer, cost: costs };
    };
    const of = (...cuts: Candidate[]) =>
      selectAssignment({
        deviceId: "d1",
        profile: boardProfile("pi-4"),
        budget: {},
        candidates: cuts,
        order,
      }).assignment?.cutLayer;
    t.equal(of(cut(1, 20 * MB, 1e9), cut(2, 10 * MB, 2e9)), 2, "as when blocks are recomputed");
    t.equal(of(cut(1, 10 * MB, 2e9), cut(2, 10 * MB, 1e9)), 2);
    t.equal(of(cut(2, 10 * MB, 1e9), cut(1, 10 * MB, 1e9)), 1);
  },
);

t.test("what is refused outright stays refused, with its reason", async (t) => {
  const refusedBecause = "labels may not leave the device";
  const refusing = candidates.map((c) => (c.protocol === "split" ? { ...c, refusedBecause } : c));
  const { assignment, table } = selectAssignment({
    deviceId: "d1",
    profile: boardProfile("pi-zero-2w"),
    budget: { trainingMemoryBytes: 48 * MB },
    candidates: refusing,
    order,
  });
  t.equal(assignment, undefined);
  t.equal(table[1]?.text, "split (cut 1) is refused: labels may not leave the device");
});

t.test("an energy limit that no power figure can check rejects", async (t) => {
  const { power: _, ...blind } = boardProfile("pi-5");
  const { assignment, table } = select(blind, { joulesPerRound: 1e9 });
  t.equal(assignment, undefined);
  t.match(table[0]?.text, /cannot be held to .* energy a round: the profile has no active power/);
  t.equal(choice(blind), "full", "without the limit it does not matter");
});

t.test("relaxing any limit never makes a feasible candidate infeasible", async (t) => {
  const limit = (max: number) => fc.option(fc.integer({ min: 0, max }), { freq: 2 });
  const budgets = fc.record({
    trainingMemoryBytes: limit(120 * MB),
    uplinkBytesPerRound: limit(6 * MB),
    downlinkBytesPerRound: limit(12 * MB),
    bytesPerRound: limit(18 * MB),
    secondsPerRound: limit(80),
    joulesPerRound: limit(200),
  });
  type Limits = { readonly [K in keyof DeviceBudget]-?: number | null };
  const clean = (limits: Limits): DeviceBudget =>
    Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== null));
  const feasible = (key: string, limits: Limits) =>
    select(boardProfile(key), clean(limits))
      .table.filter((verdict) => verdict.feasible)
      .map(({ candidate }) => candidate);
  let decided = 0;
  fc.assert(
    fc.property(
      fc.constantFrom(...boardKeys),
      budgets,
      fc.constantFrom<keyof DeviceBudget>(
        "trainingMemoryBytes",
        "uplinkBytesPerRound",
        "downlinkBytesPerRound",
        "bytesPerRound",
        "secondsPerRound",
        "joulesPerRound",
      ),
      fc.option(fc.integer({ min: 1, max: 10 })),
      (key, limits, name, factor) => {
        const given = limits[name];
        const relaxed = factor === null || given === null ? null : given * factor;
        const before = feasible(key, limits);
        const after = feasible(key, { ...limits, [name]: relaxed });
        if (before.length > 0 && before.length < candidates.length) decided++;
        t.ok(before.every((candidate) => after.includes(candidate)));
      },
    ),
  );
  t.ok(decided > 5, "the draws include budgets that let some through and not others");
});

t.test(
  "a mode of less memory is taken before the next protocol, and the preferred one is explained",
  (t) => {
    const small = { ...candidates[0], mode: "blocks-float32" as const } as Candidate;
    const withModes = [
      ...candidates,
      { ...small, cost: { ...small.cost, peakMemoryBytes: 40 * MB } },
    ];
    const choose = (modes: readonly ("whole-float32" | "blocks-float32")[], memory: number) =>
      selectAssignment({
        deviceId: "d1",
        profile: boardProfile("pi-5"),
        budget: { trainingMemoryBytes: memory * MB },
        candidates: withModes,
        order,
        modes,
      }).assignment;
    const tight = choose(["whole-float32", "blocks-float32"], 48);
    t.match(tight, { protocol: "full", mode: "blocks-float32" });
    t.match(
      tight?.reason,
      /^full \(blocks-float32\): full needs 86\.2 MB of 48\.0 MB training memory; kd needs/,
    );
    t.notOk(choose(["whole-float32", "blocks-float32"], 100)?.mode, "the first where it fits");
    t.equal(
      choose(["blocks-float32", "whole-float32"], 100)?.mode,
      "blocks-float32",
      "the task's order",
    );
    t.equal(choose(["whole-float32", "blocks-float32"], 39)?.protocol, "split");
    t.end();
  },
);
