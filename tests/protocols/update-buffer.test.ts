// The buffer of an asynchronous federation: where an update goes and how stale it is.
import fc from "fast-check";
import t from "tap";
import { closeBuffer, dueUpdates, placeUpdate, type UpdateBuffer } from "../../protocols/index.ts";

const settings = { buffer: 2, maxStaleness: 3 };
const empty: UpdateBuffer = { round: 1, updates: [] };
const arrived = (deviceId: string, lane: number, startRound: number) => {
  return { deviceId, lane, startRound };
};

/** The buffer with another update, which must not be dropped. */
function placed(buffer: UpdateBuffer, ...update: Parameters<typeof arrived>): UpdateBuffer {
  const placement = placeUpdate(buffer, arrived(...update), settings);
  if (placement.kind === "dropped") throw new Error("dropped");
  return placement.buffer;
}

t.test("a full buffer is due in device-id order, whoever came first", async (t) => {
  const one = placed(empty, "b", 1, 1);
  t.equal(dueUpdates(one, settings), undefined);
  const two = placed(one, "a", 1, 1);
  t.match(dueUpdates(two, settings), [
    { deviceId: "a", round: 1, staleness: 0 },
    { deviceId: "b", round: 1, staleness: 0 },
  ]);
  t.same(closeBuffer(two), { round: 2, updates: [] });
  const twice = placed(placed(empty, "a", 2, 1), "a", 1, 1);
  t.match(dueUpdates(twice, settings), [{ lane: 1 }, { lane: 2 }], "one device may give both");
});

t.test("what comes while a full buffer is folded belongs to the next round", async (t) => {
  const full = placed(placed(empty, "a", 1, 1), "b", 1, 1);
  const more = placed(full, "c", 1, 1);
  t.match(more.updates[2], { deviceId: "c", round: 2, staleness: 1 });
  t.same(dueUpdates(more, settings), dueUpdates(full, settings));
  const next = closeBuffer(more);
  t.match(next, { round: 2, updates: [{ deviceId: "c", round: 2, staleness: 1 }] });
});

t.test("an update that missed more rounds than allowed is dropped", async (t) => {
  const late: UpdateBuffer = { round: 5, updates: [] };
  t.match(placeUpdate(late, arrived("a", 1, 2), settings), {
    kind: "buffered",
    update: { staleness: 3 },
  });
  t.same(placeUpdate(late, arrived("a", 1, 1), settings), { kind: "dropped", staleness: 4 });
  const strict = { buffer: 2, maxStaleness: 0 };
  t.equal(placeUpdate(late, arrived("a", 1, 5), strict).kind, "buffered");
  t.equal(placeUpdate(late, arrived("a", 1, 4), strict).kind, "dropped");
});

t.test(
  "every update that is not dropped is folded once, in the round it was promised",
  async (t) => {
    const arrival = fc.record({
      device: fc.constantFrom("a", "b", "c"),
      behind: fc.nat(5),
      closesFirst: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.array(arrival, { maxLength: 40 }),
        fc.integer({ min: 1, max: 4 }),
        (arrivals, size) => {
          const rules = { buffer: size, maxStaleness: 2 };
          let buffer = empty;
          const promised: string[] = [];
          const folded: string[] = [];
          const close = () => {
            const due = dueUpdates(buffer, rules);
            if (!due) return;
            if (due.length !== size || due.some(({ round }) => round !== buffer.round))
              throw new Error("a round is folded from its own updates, all of them");
            folded.push(...due.map(({ lane, round }) => `${lane} ${round}`));
            buffer = closeBuffer(buffer);
          };
          for (const [lane, { device, behind, closesFirst }] of arrivals.entries()) {
            if (closesFirst) close();
            const startRound = Math.max(1, buffer.round - behind);
            const placement = placeUpdate(buffer, arrived(device, lane, startRound), rules);
            if (placement.kind === "dropped") continue;
            if (placement.update.staleness !== placement.update.round - startRound)
              throw new Error("staleness counts the rounds in between");
            promised.push(`${lane} ${placement.update.round}`);
            buffer = placement.buffer;
          }
          for (let i = 0; i <= arrivals.length; i++) close();
          const left = buffer.updates.map(({ lane, round }) => `${lane} ${round}`);
          t.same([...folded, ...left].toSorted(), promised.toSorted());
          t.ok(left.length < size);
        },
      ),
      { numRuns: 50 },
    );
  },
);
