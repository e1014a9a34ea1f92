// How rows of suite `frameworks` are read from comparisons.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { ConfigurationFigures, SeedFigures } from "../../apps/compare/comparison.ts";
import { coordinationRow } from "../../benchmarks/frameworks/coordination.ts";
import { lossRow, rawShareRow, savingRows } from "../../benchmarks/frameworks/study.ts";

t.test("a saving is the bytes of all devices and rounds, and the loss is paired by seed", (t) => {
  const reference = configuration("accuracy", [run(0.9, [1000, 2000]), run(0.8, [1000, 2000])]);
  const narrowed = configuration("accuracy", [run(0.88, [100, 200]), run(0.81, [100, 260])]);
  const saving = { figure: "narrow", reference, narrowed, mostBytes: 14, mostLoss: 0.5 };
  const [bytes, lost] = savingRows({ ...saving, direction: "both" });
  // 300 of 3000 and 360 of 3000 bytes; 2 points lost and 1 gained.
  t.equal(bytes?.value?.toFixed(6), "11.000000");
  t.equal(lost?.value?.toFixed(6), "0.500000");
  // Of two differences 3 apart: 12.706 * (3 / sqrt(2)) / sqrt(2), Student's t with one degree of freedom.
  t.equal(lost?.spread.toFixed(3), (12.706 * 1.5).toFixed(3));
  t.match(bytes?.mustReach, { relation: "<=", limit: 14 });
  const [up] = savingRows({ ...saving, direction: "up" });
  const [down] = savingRows({ ...saving, direction: "down" });
  t.equal(up?.value?.toFixed(6), "10.000000");
  t.equal(down?.value?.toFixed(6), "11.500000");
  t.end();
});

t.test("a share of raw float32 needs no other run", (t) => {
  const { perSeed, ...rest } = configuration("accuracy", [run(0.9, [100, 200])]);
  const narrowed = {
    ...rest,
    perSeed: perSeed.map(({ rounds, ...one }) => {
      const raw = { rawUplinkBytes: 1000, rawDownlinkBytes: 1500 };
      return { ...one, rounds: rounds.map((round) => ({ ...round, ...raw })) };
    }),
  };
  const row = rawShareRow("narrow", narrowed, 14);
  t.equal(row.value?.toFixed(6), "12.000000");
  t.match(row.mustReach, { relation: "<=", limit: 14 });
  t.end();
});

t.test("a perplexity is lost in percent of what it was", (t) => {
  const reference = configuration("perplexity", [run(40, [1, 1])]);
  const narrowed = configuration("perplexity", [run(40.4, [1, 1])]);
  const row = lossRow("narrow", reference, narrowed, 2);
  t.equal(row.value?.toFixed(6), "1.000000");
  t.equal(row.unit, "% perplexity");
  t.end();
});

t.test("coordination is a share of the seconds of all rounds in the run folder", (t) => {
  const runFolder = join(t.testdir(), "run");
  mkdirSync(runFolder);
  const lines = [
    { kind: "device", round: 1, trainSeconds: 7 },
    { kind: "round", round: 1, seconds: 8, coordinationSeconds: 1 },
    { kind: "round", round: 2, seconds: 12, coordinationSeconds: 0.5 },
  ];
  const text = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  writeFileSync(join(runFolder, "metrics.jsonl"), text);
  const row = coordinationRow("coordination", [{ ...run(0.9, [1, 1]), runFolder }]);
  t.equal(row.value?.toFixed(6), "7.500000");
  t.end();
});

/** Two rounds of three devices that each sent and received so many bytes a round. */
function run(score: number, [uplinkBytes, downlinkBytes]: readonly [number, number]): SeedFigures {
  const none = { rawUplinkBytes: 0, rawDownlinkBytes: 0, flops: 0, peakMemoryBytes: 0 };
  const round = { score, devices: 3, seconds: 1, uplinkBytes, downlinkBytes, ...none };
  return {
    seed: 1,
    runFolder: "",
    score,
    rounds: [1, 2].map((number) => ({ ...round, round: number, secondsOnLink: [] })),
    devices: {},
    uplinkBytesPerDeviceRound: uplinkBytes,
    downlinkBytesPerDeviceRound: downlinkBytes,
    rawBytesPerDeviceRound: 0,
    flopsPerDeviceRound: 0,
    peakMemoryBytes: 0,
    secondsPerRound: 1,
    secondsOnLink: [],
  };
}

function configuration(
  metric: "accuracy" | "perplexity",
  perSeed: readonly SeedFigures[],
): ConfigurationFigures {
  const zeros = { uplinkBytesPerDeviceRound: 0, downlinkBytesPerDeviceRound: 0 };
  return {
    framework: "full",
    options: {},
    seeds: perSeed.map(({ seed }) => seed),
    [metric]: { mean: 0, std: 0, interval95: null },
    ...zeros,
    rawBytesPerDeviceRound: 0,
    flopsPerDeviceRound: 0,
    peakMemoryBytes: 0,
    secondsPerRound: 1,
    secondsOnLink: {},
    perSeed,
  };
}
