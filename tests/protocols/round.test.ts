// The life of a round: when it closes, with whom, and when it is opened again.
import fc from "fast-check";
import t from "tap";
import {
  advance,
  decide,
  openRound,
  type RoundEvent,
  type RoundState,
} from "../../protocols/round.ts";

const event = (kind: RoundEvent["kind"], deviceId: string): RoundEvent => ({ kind, deviceId });
const after = (state: RoundState, ...events: RoundEvent[]) => events.reduce(advance, state);
const before = (minimumDevices: number) => ({ minimumDevices, deadlinePassed: false });
const late = (minimumDevices: number) => ({ minimumDevices, deadlinePassed: true });

t.test("a round waits for its whole cohort, however quick the first is", async (t) => {
  const open = openRound(3, 1, ["b", "a"]);
  const one = after(open, event("joined", "b"), event("delivered", "b"));
  t.same(decide(one, before(1)), { kind: "wait" }, "a has not even joined");
  const both = after(one, event("joined", "a"), event("delivered", "a"));
  t.same(decide(both, before(1)), { kind: "close", accepted: ["a", "b"] });
  t.equal(decide(open, before(1)).kind, "wait", "the round before stays as it was");
});

t.test("a lost device holds nobody up, and counts when it comes back in time", async (t) => {
  const open = openRound(1, 1, ["a", "b"]);
  const lost = after(open, event("lost", "b"));
  t.equal(decide(lost, before(1)).kind, "wait", "a is at work");
  t.same(decide(after(lost, event("delivered", "a")), before(1)), {
    kind: "close",
    accepted: ["a"],
  });
  const back = after(lost, event("joined", "b"), event("delivered", "a"));
  t.equal(decide(back, before(1)).kind, "wait");
  t.same(decide(after(back, event("delivered", "b")), before(1)), {
    kind: "close",
    accepted: ["a", "b"],
  });
});

t.test("what was delivered stays, also when its device goes or comes again", async (t) => {
  const open = openRound(1, 1, ["a"]);
  const state = after(open, event("delivered", "a"), event("lost", "a"), event("joined", "a"));
  t.same(decide(state, before(1)), { kind: "close", accepted: ["a"] });
});

t.test("below the minimum a round waits for the deadline and is then opened again", async (t) => {
  const state = after(openRound(1, 1, ["a", "b"]), event("delivered", "a"), event("lost", "b"));
  t.equal(decide(state, before(2)).kind, "wait", "b may come back");
  t.same(decide(state, late(2)), {
    kind: "reopen",
    reason: "1 of at least 2 devices delivered",
  });
  t.same(decide(openRound(1), late(1)), {
    kind: "reopen",
    reason: "0 of at least 1 devices delivered",
  });
  t.same(openRound(1, 2, ["a"]).attempt, 2);
});

t.test("the deadline closes a round with those that delivered", async (t) => {
  const state = after(
    openRound(1, 1, ["a", "b", "c"]),
    event("delivered", "c"),
    event("lost", "b"),
  );
  t.same(decide(state, late(1)), { kind: "close", accepted: ["c"] });
});

t.test("a device that joins a round under way is waited for, too", async (t) => {
  const state = after(openRound(1, 1, ["a"]), event("joined", "z"), event("delivered", "a"));
  t.equal(decide(state, before(1)).kind, "wait");
});

const ids = ["device-10", "device-9", "a", "B"];

/** What one device does in a round: it ends by delivering or by being lost for good. */
const story = fc.record({
  delivers: fc.boolean(),
  noise: fc.array(fc.constantFrom<RoundEvent["kind"]>("joined", "lost"), { maxLength: 3 }),
});

t.test(
  "in any order of events the round closes with the same devices, in their order",
  async (t) => {
    fc.assert(
      fc.property(
        fc.array(story, { minLength: 1, maxLength: 4 }),
        fc.array(fc.nat(), { minLength: 20, maxLength: 20 }),
        (stories, picks) => {
          // Noise comes after a delivery (a connection that drops) or between joins, never as a return from a loss:
          // whether one comes back before the others are done does decide.
          const queues = stories.map(({ delivers, noise }, i) => {
            const own = (kind: RoundEvent["kind"]) => event(kind, ids[i] as string);
            return delivers
              ? [own("joined"), own("delivered"), ...noise.map(own)]
              : [own("joined"), own("joined"), own("lost")];
          });
          const expected = stories.flatMap(({ delivers }, i) =>
            delivers ? [ids[i] as string] : [],
          );
          let state = openRound(1, 1, ids.slice(0, stories.length));
          for (const next of interleave(queues, picks)) {
            state = advance(state, next);
            const decision = decide(state, before(1));
            if (decision.kind === "wait") continue;
            t.same(decision, { kind: "close", accepted: expected.sort(byCodeUnit) });
            return;
          }
          t.equal(expected.length, 0, "only a round without any delivery stays open");
        },
      ),
    );
  },
);

t.test(
  "no order of events closes a round below its minimum or with what was not delivered",
  async (t) => {
    const kinds = fc.constantFrom<RoundEvent["kind"]>("joined", "delivered", "lost");
    const events = fc.array(fc.tuple(kinds, fc.constantFrom(...ids)), { maxLength: 30 });
    fc.assert(
      fc.property(
        events,
        fc.integer({ min: 1, max: 4 }),
        fc.boolean(),
        (history, minimum, isLate) => {
          const state = after(
            openRound(1, 1, ["a"]),
            ...history.map(([kind, id]) => event(kind, id)),
          );
          const decision = decide(state, { minimumDevices: minimum, deadlinePassed: isLate });
          const delivered = new Set(
            history.filter(([kind]) => kind === "delivered").map(([, id]) => id),
          );
          if (decision.kind === "close") {
            t.ok(decision.accepted.length >= minimum);
            t.same(decision.accepted, [...delivered].sort(byCodeUnit));
          } else {
            t.equal(decision.kind, isLate ? "reopen" : "wait");
            t.ok(!isLate || delivered.size < minimum);
          }
        },
      ),
    );
  },
);

function byCodeUnit(x: string, y: string): number {
  return x < y ? -1 : 1;
}

/** The events of all queues, each queue in its own order. */
function* interleave(queues: readonly RoundEvent[][], picks: readonly number[]) {
  const rest = queues.map((queue) => [...queue]);
  for (let i = 0; ; i++) {
    const open = rest.filter((queue) => queue.length > 0);
    const queue = open[(picks[i % picks.length] ?? 0) % Math.max(1, open.length)];
    const next = queue?.shift();
    if (!next) return;
    yield next;
  }
}
