// Waits that end, whatever the garbage collector does meanwhile.
import { setTimeout as delay } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import t from "tap";
import { withPatience } from "../../apps/patience.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** Resolves when the signal aborts, which a signal behind it tells: as a run waits for a change or for the end of its patience. */
function untilAborted(signal: AbortSignal): Promise<unknown> {
  const either = AbortSignal.any([signal, new AbortController().signal]);
  return new Promise((resolve) => {
    either.addEventListener("abort", () => resolve(either.reason), { once: true });
  });
}

t.test("a wait ends after its time, garbage collected or not", async (t) => {
  const { signal } = new AbortController();
  const waited = withPatience(signal, 100, untilAborted);
  await delay(10);
  collectGarbage();
  t.match(await waited, { name: "TimeoutError", message: /0.1 s/ });
});

t.test("a wait ends with its run, and at once when that has ended", async (t) => {
  const run = new AbortController();
  const reason = new Error("stopped");
  const waited = withPatience(run.signal, 60_000, untilAborted);
  run.abort(reason);
  t.equal(await waited, reason);
  t.equal(await withPatience(run.signal, 60_000, async (patience) => patience.reason), reason);
});

t.test("work that is done in time is what comes of it", async (t) => {
  const { signal } = new AbortController();
  t.equal(await withPatience(signal, 60_000, async () => "done"), "done");
  await t.rejects(
    withPatience(signal, 60_000, async () => {
      throw new Error("failed");
    }),
    { message: "failed" },
  );
});
