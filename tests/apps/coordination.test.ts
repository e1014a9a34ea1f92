// Where the seconds of a round go.
import t from "tap";
import { coordinationSeconds, timeRefinements } from "../../apps/coordinator/coordination.ts";
import type { Payload, ServerSide } from "../../protocols/index.ts";

t.test("coordination is what a round takes beside its slowest device and the distillation", (t) => {
  const round = { seconds: 10, refinementSeconds: 1.5, deviceSeconds: [6, 8, 2] };
  t.equal(coordinationSeconds(round), 0.5);
  t.equal(coordinationSeconds({ ...round, deviceSeconds: [] }), 8.5);
  t.equal(coordinationSeconds({ ...round, deviceSeconds: [12] }), 0, "clocks of two machines");
  t.end();
});

t.test("only refinements are timed, and they refine as before", async (t) => {
  let nowMs = 0;
  const plain: ServerSide<Payload, Payload> = {
    openLane: () => Promise.reject(new Error("not opened")),
    close: async () => {},
  };
  const refining: ServerSide<Payload, Payload> = {
    ...plain,
    refine: async () => {
      nowMs += 250;
      return new Map();
    },
  };
  const timed = timeRefinements(
    [
      ["full", plain],
      ["kd", refining],
    ],
    () => nowMs,
  );
  const global = { round: 1, parameters: new Map() };
  const input = { round: 1, global, contributorWeight: 1, record: () => {} };
  t.equal(timed.servers.get("full")?.refine, undefined);
  for (const _ of [1, 2]) t.same(await timed.servers.get("kd")?.refine?.([], input), new Map());
  t.equal(timed.refinementSeconds(), 0.5);
});
