// `trifold bench` on the embedded model: what it prints and what it refuses. How fast the machine is decides nothing.
import t from "tap";
import type { BenchReport } from "../../apps/bench/bench.ts";
import { pairedRatios, summarise } from "../../apps/bench/statistics.ts";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import { runTrifold } from "./program.ts";

const environment = { TRIFOLD_CACHE: t.testdir() };
const tiny = ["--shape", embeddedModelFolder(), "--batch", "2", "--seq", "16", "--threads", "1"];

async function measured(...args: readonly string[]): Promise<BenchReport> {
  const all = ["bench", ...tiny, "--runs", "2", "--json", ...args];
  const { status, stdout, stderr } = await runTrifold(all, environment);
  t.equal(status, 0, stderr);
  return JSON.parse(stdout) as BenchReport;
}

const figures = [
  ...["lossOnlyMs", "stepMs", "ratio", "tokensPerSecond", "loadMs"],
  ...["peakMemoryBytes", "estimatedMemoryBytes", "gemmFlopsPerSecond"],
] as const;
const settings = ["shape", "head", "batch", "sequence", "threads", "mode"];

t.test("a bench prints one JSON document with every figure of a step", async (t) => {
  const report = await measured("--head", "lm", "--memory", "1 GB");
  t.same(Object.keys(report).sort(), [...settings, ...figures].sort());
  t.match(report, {
    ...{ shape: embeddedModelFolder(), head: "lm", batch: 2, sequence: 16, threads: 1 },
    mode: "whole-float32",
  });
  for (const name of figures) {
    const value = report[name as keyof BenchReport];
    t.ok(typeof value === "number" && value > 0, `${name} is ${value}`);
  }
  t.equal(report.tokensPerSecond, (1000 * 32) / report.stepMs);
  // The process maps 4 MB of weights and holds Node; no arena of a model this small comes near a gigabyte.
  t.ok(report.peakMemoryBytes > 40e6 && report.peakMemoryBytes < 1e9);
});

t.test("with a cut the client is measured beside the whole step", async (t) => {
  const { cut, fullStepMs = 0, stepMs, ratio } = await measured("--cut", "1", "--runs", "1");
  t.equal(cut, 1);
  // A single run each, so that the median of the ratios is the ratio of the two.
  t.equal(ratio, stepMs / fullStepMs);
});

t.test("a mode that is named is the mode that is measured", async (t) => {
  const report = await measured("--mode", "blocks-int8", "--runs", "1");
  t.equal(report.mode, "blocks-int8");
});

t.test("without --json people get a table", async (t) => {
  const { status, stdout } = await runTrifold(["bench", ...tiny, "--runs", "1"], environment);
  t.equal(status, 0);
  t.match(stdout, /classification head, 2 x 16 tokens, 1 thread, whole-float32\n/);
  t.match(stdout, /^step +\d+\.\d ms$/m);
  t.match(stdout, /^peak memory +\d+(\.\d+)? [kMG]B$/m);
});

t.test(
  "what cannot be measured is refused with status 2 and nothing on standard output",
  async (t) => {
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [["--head", "qa"], /USAGE_INVALID: .*--head.*'qa' is invalid.*lm, classification/],
      [["--cut", "0"], /USAGE_INVALID: .*whole number of at least 1/],
      [["--cut", "4"], /OPTION_INVALID: --cut is 4, expected 1 to 3/],
      [["--memory", "much"], /USAGE_INVALID: .*--memory.*'much' is invalid.*size such as 400MB/],
      [["--memory", "0 MB"], /USAGE_INVALID: .*'0 MB' is invalid/],
      [
        ["--memory", "1 MB"],
        /MEMORY_BUDGET_TOO_SMALL: .* fits 1 MB: whole-float32 \d+ MB.*\nhint: Raise/,
      ],
      [["--cut", "1", "--mode", "blocks-int8"], /OPTION_INVALID: --mode is blocks-int8, a client/],
      [["--mode", "quick"], /USAGE_INVALID: .*'quick' is invalid.*blocks-int8/],
      [["--seq", "100000"], /OPTION_INVALID: --seq is 100000, expected at most \d+, the positions/],
      [["--shape", "no-such-folder"], /MODEL_FOLDER_INVALID: .*no-such-folder/],
    ];
    for (const [args, text] of cases) {
      const { status, stdout, stderr } = await runTrifold(["bench", ...tiny, ...args], environment);
      t.equal(status, 2, args.join(" "));
      t.equal(stdout, "");
      t.match(stderr, text);
    }
  },
);

t.test(
  "a median is between the middle values, the spread half of what the quartiles enclose",
  (t) => {
    t.same(summarise([4, 1, 2, 3]), { median: 2.5, spread: 0.75 });
    t.same(summarise([7]), { median: 7, spread: 0 });
    t.same(pairedRatios([2, 9], [1, 3]), [2, 3]);
    t.end();
  },
);
