// Whom a round asks: a share of the ready devices, drawn or chosen by speed.
import fc from "fast-check";
import t from "tap";
import { type CohortCandidate, chooseCohort, taskSchema } from "../../protocols/index.ts";

const draw = (round: number, attempt = 1) => ({ seed: 7, round, attempt });
const candidatesOf = (...ids: readonly string[]): CohortCandidate[] =>
  ids.map((deviceId) => ({ deviceId, seconds: undefined }));
const ten = candidatesOf("a", "b", "c", "d", "e", "f", "g", "h", "i", "j");
const random = (fraction: number, minimumDevices = 1) => {
  return { fraction, minimumDevices, choice: "random" } as const;
};

t.test("a fraction is rounded up and never falls below the minimum", async (t) => {
  const sizeOf = (fraction: number, minimumDevices: number) =>
    chooseCohort(ten, random(fraction, minimumDevices), draw(1)).length;
  t.equal(sizeOf(0.3, 1), 3);
  t.equal(sizeOf(0.31, 1), 4);
  t.equal(sizeOf(0.01, 1), 1);
  t.equal(sizeOf(0.3, 5), 5, "the minimum wins");
  t.equal(sizeOf(0.3, 99), 10, "no more than there are");
  t.equal(sizeOf(1, 1), 10);
  const roomFor = { ...random(0.8), mostDevices: 3 };
  t.equal(chooseCohort(ten, roomFor, draw(1)).length, 3, "nor more than there is room for");
  const hundred = Array.from({ length: 100 }, (_, i) => ({ deviceId: `${i}`, seconds: 1 }));
  t.equal(chooseCohort(hundred, random(0.07), draw(1)).length, 7, "0.07 * 100 > 7 in binary");
});

t.test("a draw is the same in any order of candidates, and another one each round", async (t) => {
  fc.assert(
    fc.property(fc.shuffledSubarray(ten, { minLength: 10 }), fc.nat(50), (shuffled, round) => {
      const chosen = chooseCohort(shuffled, random(0.4), draw(round));
      t.same(chosen, chooseCohort(ten, random(0.4), draw(round)));
      t.same(chosen, chosen.toSorted(), "in device-id order");
    }),
    { numRuns: 20 },
  );
  const rounds = Array.from({ length: 20 }, (_, i) =>
    chooseCohort(ten, random(0.4), draw(i)).join(),
  );
  // 210 subsets of four: 20 draws of fewer than 15 different ones would be no draws.
  t.ok(new Set(rounds).size >= 15, `${new Set(rounds).size} different cohorts`);
  const again = chooseCohort(ten, random(0.4), draw(3, 2));
  t.not(again.join(), rounds[3], "a round that is opened again asks others");
});

t.test("a drawn device stays drawn whoever of the others leaves", async (t) => {
  const chosen = chooseCohort(ten, random(0.4), draw(5));
  const idle = ten.filter(({ deviceId }) => !chosen.includes(deviceId));
  const without = ten.filter(({ deviceId }) => deviceId !== idle[0]?.deviceId);
  t.same(chooseCohort(without, random(0.4), draw(5)), chosen);
});

t.test("every device is asked equally often", async (t) => {
  const times = new Map(ten.map(({ deviceId }) => [deviceId, 0]));
  const rounds = 3000;
  for (let round = 1; round <= rounds; round++)
    for (const id of chooseCohort(ten, random(0.3), draw(round)))
      times.set(id, (times.get(id) ?? 0) + 1);
  // Binomial with p = 0.3: a standard deviation of 25 around 900; four of them.
  for (const [id, count] of times) t.ok(Math.abs(count - 900) <= 100, `${id}: ${count}`);
});

t.test("the fastest have the least estimated seconds; ties go by id", async (t) => {
  const fastest = { fraction: 0.5, minimumDevices: 1, choice: "fastest" } as const;
  const candidates = [
    { deviceId: "slow", seconds: 90 },
    { deviceId: "unknown", seconds: undefined },
    { deviceId: "quick-2", seconds: 3 },
    { deviceId: "quick-1", seconds: 3 },
    { deviceId: "quickest", seconds: 1 },
    { deviceId: "slowest", seconds: 900 },
  ];
  for (const round of [1, 2])
    t.same(chooseCohort(candidates, fastest, draw(round)), ["quick-1", "quick-2", "quickest"]);
  t.same(
    chooseCohort(candidates, { ...fastest, fraction: 0.9 }, draw(1)).includes("unknown"),
    true,
  );
  t.same(chooseCohort(candidates, { ...fastest, fraction: 5 / 6 }, draw(1)).at(-1), "slowest");
});

t.test("whoever asks nothing else asks everybody", async (t) => {
  const { cohort } = taskSchema.parse({
    name: "x",
    head: { kind: "classification", labels: ["a", "b"] },
  });
  t.match(cohort, { fraction: 1, choice: "random" });
  t.equal(chooseCohort(ten, cohort, draw(1)).length, 10);
  for (const fraction of [0, -1, 1.01]) {
    const head = { kind: "classification", labels: ["a", "b"] };
    t.notOk(taskSchema.safeParse({ name: "x", head, cohort: { fraction } }).success);
  }
});
