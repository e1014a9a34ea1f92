// The arithmetic of a comparison: intervals, sweeps, seconds on a link, who holds which texts, and what is said of it.
import fc from "fast-check";
import t from "tap";
import { type NetworkLink, networkLinks, type SeedFigures } from "../../apps/compare/comparison.ts";
import { dealRows } from "../../apps/compare/deal.ts";
import { secondsOn } from "../../apps/compare/run-figures.ts";
import { estimateOf, excludesZero, pairedDifference } from "../../apps/compare/statistics.ts";
import { summariseConfigurations } from "../../apps/compare/summary.ts";
import { configurationsOf, parseFrameworks, parseSweep } from "../../apps/compare/sweep.ts";
import { verdictsOf } from "../../apps/compare/verdicts.ts";
import type { DeviceRoundReport } from "../../apps/control-messages.ts";

t.test("an interval is the mean plus and minus t times the standard error", async (t) => {
  // 0.90, 0.92, 0.94: mean 0.92, sample variance (0.0004 + 0 + 0.0004) / 2 = 0.0004, standard error
  // 0.02 / sqrt(3) = 0.0115470, t(0.975; 2) = 4.303 (NIST table), half width 0.0496868.
  const { mean, std, interval95 } = estimateOf([0.9, 0.92, 0.94]);
  const near = (a: number | undefined, b: number) =>
    t.ok(Math.abs((a ?? 0) - b) < 5e-7, `${a} ${b}`);
  near(mean, 0.92);
  near(std, 0.02);
  near(interval95?.low, 0.92 - 0.0496868);
  near(interval95?.high, 0.92 + 0.0496868);
  // Two values: t(0.975; 1) = 12.706, standard error half their distance.
  near(estimateOf([1, 3]).interval95?.high, 2 + 12.706);
  // Eleven values 0..10: variance 11, standard error 1, t(0.975; 10) = 2.228.
  near(estimateOf([...Array(11).keys()]).interval95?.high, 5 + 2.228);
});

t.test("one value has no interval and no spread", async (t) => {
  t.same(estimateOf([0.5]), { mean: 0.5, std: 0, interval95: null });
  t.notOk(excludesZero(estimateOf([0.5])));
});

t.test("differences are paired: what the seeds have in common does not widen them", async (t) => {
  // Seeds differ by 20 points, the two configurations by 1 point, always.
  const difference = pairedDifference([0.71, 0.81, 0.91], [0.7, 0.8, 0.9]);
  t.ok(Math.abs(difference.mean - 0.01) < 1e-12);
  t.ok(excludesZero(difference));
  t.notOk(excludesZero(pairedDifference([0.7, 0.8, 0.9], [0.9, 0.8, 0.7])));
});

t.test("swept values multiply, and only where they change something", async (t) => {
  const sweep = { ...parseSweep("rank=2,4"), ...parseSweep("cut=1,2"), ...parseSweep("topK=8") };
  const labels = (names: string) =>
    configurationsOf(parseFrameworks(names), sweep).map(({ options }) => JSON.stringify(options));
  t.same(labels("full"), ['{"rank":2}', '{"rank":4}']);
  t.same(labels("kd"), ['{"rank":2,"topK":8}', '{"rank":4,"topK":8}']);
  t.equal(labels("split").length, 4);
  t.equal(labels("kd,full").length, 4);
  t.same(parseSweep("full.encoding=float32,int8"), { "full.encoding": ["float32", "int8"] });
  t.same(parseSweep("split.reuse=true,false"), { "split.reuse": [true, false] });
});

t.test("a sweep or a framework that cannot be read is refused with what was given", async (t) => {
  for (const text of ["rank", "=2", "rank=", "rank=2,,4", "ra nk=2", "rank={a: 1}", "rank=[1"]) {
    t.throws(() => parseSweep(text), { code: "OPTION_INVALID", message: `--sweep ${text}` }, text);
  }
  t.throws(() => parseFrameworks("full,ful"), { code: "OPTION_INVALID", message: /"ful"/ });
});

t.test("seconds on a link: the slowest device, and what the round took beside it", async (t) => {
  const link: NetworkLink = { name: "", bitsPerSecond: 1e6, roundTripSeconds: 0.05 };
  const device = (trainSeconds: number, uplinkBytes: number, roundTrips: number) => {
    const report = { trainSeconds, uplinkBytes, downlinkBytes: 25_000 } as DeviceRoundReport;
    return { report, roundTrips };
  };
  // a: 4 s + 8 * 125,000 bits / 1e6 + 2 * 0.05 = 5.1 s; b: 1 s + 8 * 1,025,000 / 1e6 + 10 * 0.05 = 9.7 s.
  // The round took 6 s, its slowest device 4 s: 2 s are the coordinator's.
  const seconds = secondsOn(link, 6, [device(4, 100_000, 2), device(1, 1_000_000, 10)]);
  t.ok(Math.abs(seconds - 11.7) < 1e-9, String(seconds));
  t.equal(
    secondsOn({ ...link, bitsPerSecond: Number.POSITIVE_INFINITY, roundTripSeconds: 0 }, 6, [
      device(4, 1, 1),
    ]),
    6,
  );
});

const rows = (count: number) =>
  Array.from({ length: count }, (_, i) => ({ text: `text ${i}`, label: i % 3 === 0 ? "a" : "b" }));
const ids = ["x", "y", "z"];

t.test("no text is dealt twice, and equal seeds deal alike", async (t) => {
  const partition = fc.oneof(
    fc.constant({ kind: "iid" } as const),
    fc
      .double({ min: 0.3, max: 5, noNaN: true })
      .map((alpha) => ({ kind: "dirichlet", alpha }) as const),
  );
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 99 }), partition, (seed, how) => {
      const options = { seed, deviceIds: ids, partition: how, minimumRows: 1, publicSize: 30 };
      const data = { train: rows(300), test: [] };
      const deal = dealRows(data, options);
      const dealt = [...deal.publicSet, ...[...deal.devices.values()].flat()].map(
        ({ text }) => text,
      );
      t.equal(new Set(dealt).size, dealt.length);
      t.equal(deal.publicSet.length, 30);
      t.same([...dealRows(data, options).devices], [...deal.devices]);
    }),
    { numRuns: 25 },
  );
});

t.test(
  "an even deal gives each device as many texts, a skewed one shares labels unevenly",
  async (t) => {
    const options = { seed: 1, deviceIds: ids, minimumRows: 5, publicSize: 0 };
    const data = { train: rows(300), test: [] };
    const even = dealRows(data, { ...options, partition: { kind: "iid" }, rowsPerDevice: 80 });
    t.same(
      [...even.devices.values()].map((own) => own.length),
      [80, 80, 80],
    );
    const skewed = dealRows(data, { ...options, partition: { kind: "dirichlet", alpha: 0.5 } });
    const shares = [...skewed.devices.values()].map(
      (own) => own.filter(({ label }) => label === "a").length / own.length,
    );
    t.ok(Math.max(...shares) - Math.min(...shares) > 0.2, String(shares));
    t.throws(() => dealRows(data, { ...options, partition: { kind: "iid" }, minimumRows: 101 }), {
      code: "COMPARISON_DATA_TOO_SMALL",
    });
  },
);

/** A run whose rounds all take the same. */
function run(seed: number, scores: readonly number[], bytes: number): SeedFigures {
  const rounds = scores.map((score, i) => ({
    ...{ round: i + 1, score, devices: 1, seconds: 1, uplinkBytes: bytes, downlinkBytes: bytes },
    ...{ rawUplinkBytes: bytes, rawDownlinkBytes: bytes, flops: 1, peakMemoryBytes: 1 },
    secondsOnLink: networkLinks.map(({ bitsPerSecond }) => 1 + (16 * bytes) / bitsPerSecond),
  }));
  return {
    ...{ seed, runFolder: "", score: scores.at(-1) ?? 0, rounds, devices: {} },
    ...{ uplinkBytesPerDeviceRound: bytes, downlinkBytesPerDeviceRound: bytes },
    ...{
      rawBytesPerDeviceRound: 2 * bytes,
      flopsPerDeviceRound: 1,
      peakMemoryBytes: 1,
      secondsPerRound: 1,
    },
    secondsOnLink: networkLinks.map((_, i) =>
      rounds.reduce((sum, round) => sum + (round.secondsOnLink[i] ?? 0), 0),
    ),
  };
}

t.test("a verdict names the best and says when the seeds do not tell two apart", async (t) => {
  const full = { framework: "full", options: {} } as const;
  const kd = { framework: "kd", options: { rank: 2 } } as const;
  const all = [
    { configuration: full, runs: [run(1, [0.8, 0.9], 1e6), run(2, [0.7, 0.88], 1e6)] },
    { configuration: kd, runs: [run(1, [0.85, 0.87], 1e3), run(2, [0.8, 0.89], 1e3)] },
  ];
  const verdicts = new Map(verdictsOf("accuracy", all).map((one) => [one.constraint, one]));
  const accuracy = verdicts.get("best accuracy");
  t.match(accuracy, { best: "full", runnerUp: "kd rank=2", isSeparated: false });
  t.match(accuracy?.text, /within its 95 % interval/);
  t.match(verdicts.get("fewest bytes per device and round"), {
    best: "kd rank=2",
    isSeparated: true,
  });
  // 88.0 % is the lower mean. kd is there at once in seed 2 and never in seed 1, full after two rounds in both.
  t.match(verdicts.get("first at 88.0 % on 1 Mbit/s"), { best: "full" });
  const figures = summariseConfigurations("accuracy", all);
  t.equal(figures[0]?.differenceToBest, undefined);
  t.ok(Math.abs((figures[1]?.differenceToBest?.mean ?? 0) + 0.01) < 1e-12);
  const single = all.map(({ configuration, runs }) => ({ configuration, runs: runs.slice(0, 1) }));
  for (const { isSeparated, text } of verdictsOf("accuracy", single)) {
    t.notOk(isSeparated && text.includes("interval"), text);
  }
});
