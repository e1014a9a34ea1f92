// The watch over the event loop that benchmarks measure with.
import t from "tap";
import { watchEventLoop } from "../../benchmarks/event-loop.ts";

t.test("a stall is seen at its length, wherever in the job it lies", async (t) => {
  for (const [before, after] of [
    [0, 0],
    [3, 0],
    [0, 3],
  ] as const) {
    const { result, longestStallMs } = await watchEventLoop(async () => {
      await turns(before);
      const endMs = performance.now() + 80;
      while (performance.now() < endMs) {
        // Blocks the loop.
      }
      await turns(after);
      return "done";
    });
    t.equal(result, "done");
    // The watch began before, so it sees all 80 ms; a busy machine can only add to them.
    t.ok(longestStallMs >= 80, `${longestStallMs} ms`);
  }
});

t.test("a job that fails is reported as it failed", async (t) => {
  await t.rejects(
    watchEventLoop(() => Promise.reject(new Error("broken"))),
    { message: "broken" },
  );
});

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}
