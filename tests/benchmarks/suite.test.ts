// What benchmarks report, and the processes that measure. Nothing here depends on how fast the machine is.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { askBench } from "../../apps/bench/probe.ts";
import type { Workload } from "../../apps/bench/workload.ts";
import { limitFile } from "../../benchmarks/memory-limit.ts";
import { isReached, type Row, rowAsCells, rowsAsJson } from "../../benchmarks/row.ts";

const row: Row = {
  ...{ figure: "step / loss only", value: 2.04, unit: "ratio", spread: 0.012 },
  ...{ command: "npm run bench -- engine", mustReach: { relation: "<=", limit: 2.1 } },
};

t.test("a promise is kept at its limit and missed beyond it", (t) => {
  t.equal(isReached(row), true);
  t.equal(isReached({ ...row, value: 2.1 }), true);
  t.equal(isReached({ ...row, value: 2.11 }), false);
  const atLeast = { ...row, mustReach: { relation: ">=", limit: 20 } } as const;
  t.equal(isReached({ ...atLeast, value: 20 }), true);
  t.equal(isReached({ ...atLeast, value: 0 }), false);
  t.equal(isReached({ ...row, value: undefined }), null);
  t.end();
});

t.test(
  "the document holds promised rows only, null and a reason where nothing was measured",
  (t) => {
    const { mustReach: _, ...informs } = row;
    const unmeasured = { ...row, value: undefined, spread: 0, reason: "no python3" };
    t.same(rowsAsJson([row, informs, unmeasured]), [
      {
        ...{ figure: row.figure, value: 2.04, unit: "ratio", mustReach: "<= 2.1", ok: true },
        ...{ spread: 0.012, command: row.command },
      },
      {
        ...{ figure: row.figure, value: null, unit: "ratio", mustReach: "<= 2.1", ok: null },
        ...{ spread: 0, command: row.command, reason: "no python3" },
      },
    ]);
    t.end();
  },
);

t.test("people see value, spread, promise and verdict, or why there is no value", (t) => {
  t.same(rowAsCells(row), ["step / loss only", "2.040", "+-0.012", "ratio", "<= 2.1", "ok"]);
  t.same(rowAsCells({ ...row, value: 12.34, spread: 0 }).slice(1), [
    ...["12.3", "", "ratio", "<= 2.1", "MISSED"],
  ]);
  t.equal(rowAsCells({ ...row, value: undefined, reason: "no python3" })[1], "no python3");
  t.end();
});

t.test("the limit of memory is read where /proc/self/cgroup says, in both versions", (t) => {
  const one = "9:pids:/a\n4:cpu,memory:/trifold-1/client\n0::/b\n";
  t.equal(limitFile(one, "/root"), join("/root/memory/trifold-1/client/memory.limit_in_bytes"));
  t.equal(limitFile("0::/user/client\n", "/root"), join("/root/user/client/memory.max"));
  t.equal(limitFile("9:pids:/a\n"), undefined);
  t.end();
});

const skip = process.platform === "linux" ? false : "only Linux tells a process from its /proc";
t.test("a measuring process takes no memory before it is admitted", { skip }, async (t) => {
  let program = "";
  const admit = async (pid: number) => {
    program = await readFile(`/proc/${pid}/cmdline`, "utf8");
  };
  const flopsPerSecond = await askBench("products", { threads: 1 }, { admit });
  t.match(program, /^sh\0-c\0read/, "still the shell");
  t.ok(flopsPerSecond > 0);
});

t.test("a measuring process that fails tells why", async (t) => {
  const workload: Workload = {
    ...{ model: "no-such-folder", cacheFolder: t.testdir(), batch: 1, sequence: 8, threads: 1 },
    head: { kind: "lm" },
  };
  await t.rejects(askBench("training", { workload, steps: 1 }), {
    code: "BENCH_PROCESS_FAILED",
    message: /measures training ended with status 1: error MODEL_FOLDER_INVALID: .*no-such-folder/,
  });
});
