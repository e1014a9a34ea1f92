import t from "tap";
import { type TestResult, tapResults } from "../../scripts/tap-results.ts";

// As tap 21 prints it with --reporter=tap.
const RUN = `TAP version 14
1..3
# Subtest: dist/tests/a.test.js
    # Subtest: adds
        ok 1 - should be equal
        ok 2 - should be equal
        1..2
    ok 1 - adds # time=6.8ms

    # Subtest: takes \\# away
        ok 1 - fine
        not ok 2 - one is two
          ---
          compare: ===
          diff: |
            ok 1 - a line that looks like TAP
          ...

        1..2
    not ok 2 - takes \\# away # time=48.6ms
      ---
      at:
        lineNumber: 3
      ...

    ok 3 - needs a broker # SKIP mosquitto is not installed
    # Subtest: all encodings
        # Subtest: int8
            ok 1 - should be equal
            1..1
        ok 1 - int8 # time=1ms

        # Subtest: bf16
            ok 1 - exact # SKIP only on arm64
            ok 2 - should be equal
            1..2
        ok 2 - bf16 # time=1ms

        1..2
    ok 4 - all encodings # time=2ms

    1..4
not ok 1 - dist/tests/a.test.js # time=103.9ms
  ---
  exitCode: 1
  ...

a line that a test printed
# Subtest: dist/tests/b.test.js
    1..0 # no python
ok 2 - dist/tests/b.test.js # SKIP no python

# Subtest: dist/tests/c.test.js
    # Subtest: passes
        ok 1 - fine
        1..1
    ok 1 - passes # time=1ms
    1..1
not ok 3 - dist/tests/c.test.js # time=1465.5ms
  ---
  exitCode: 7
  ...
# { total: 16, pass: 5, fail: 5 }`;

t.test("each innermost block of a run is one test with its outcome and reason", async (t) => {
  const { results, others } = await read(RUN);
  const a = "dist/tests/a.test.js";
  const c = "dist/tests/c.test.js";
  t.same(
    results.map(({ outcome, path, reason }) => [outcome, path.join(" > "), reason]),
    [
      ["passed", `${a} > adds`, undefined],
      ["failed", `${a} > takes # away`, undefined],
      ["skipped", `${a} > needs a broker`, "mosquitto is not installed"],
      ["passed", `${a} > all encodings > int8`, undefined],
      ["skipped", `${a} > all encodings > bf16`, "only on arm64"],
      ["skipped", "dist/tests/b.test.js", "no python"],
      ["passed", `${c} > passes`, undefined],
      ["failed", c, undefined],
    ],
  );
  t.same(others, ["a line that a test printed"]);
});

t.test(
  "a failure carries its assertion and diagnostics, a crash after the tests its exit code",
  async (t) => {
    const { results } = await read(RUN);
    const [assertion, crash] = results.filter((result) => result.outcome === "failed");
    t.match(assertion?.details, ["one is two", "  compare: ==="]);
    t.same(crash?.details, ["dist/tests/c.test.js", "  exitCode: 7"]);
  },
);

async function read(text: string): Promise<{ results: TestResult[]; others: string[] }> {
  const others: string[] = [];
  const results: TestResult[] = [];
  async function* lines() {
    yield* text.split("\n");
  }
  for await (const result of tapResults(lines(), (line) => others.push(line))) {
    results.push(result);
  }
  return { results, others };
}
