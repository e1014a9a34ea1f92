// Whose turn it is at a part that several devices train.
import t from "tap";
import { createTurns, type Place } from "../../protocols/split/turns.ts";

/** An order under a clock that the test moves. */
function underTest() {
  const timers = new Set<() => void>();
  const after = (_delayMs: number, callback: () => void) => {
    timers.add(callback);
    return () => void timers.delete(callback);
  };
  const turns = createTurns({ patienceMs: 1000, after });
  const served: string[] = [];
  return {
    turns,
    served,
    join: (id: string) => turns.join(id),
    ask: (id: string, place: Place) => place.take(async () => void served.push(id)),
    waits: () => timers.size,
    /** The patience ends. */
    pass: () => {
      for (const callback of [...timers]) {
        timers.delete(callback);
        callback();
      }
    },
  };
}

t.test("devices are served in the order of their ids, whoever asks first", async (t) => {
  const { served, join, ask } = underTest();
  const [b, c, a] = [join("b"), join("c"), join("a")];
  for (let step = 0; step < 3; step++) await Promise.all([ask("c", c), ask("b", b), ask("a", a)]);
  t.equal(served.join(""), "abcabcabc");
});

t.test(
  "a device that asks at once again is not served before one that is on its way",
  async (t) => {
    const { served, join, ask } = underTest();
    const [a, b] = [join("a"), join("b")];
    await ask("a", a);
    const again = ask("a", a);
    t.equal(served.join(""), "a");
    await ask("b", b);
    await again;
    t.equal(served.join(""), "aba");
  },
);

t.test("a slow device holds the others up once, and is served whenever it comes", async (t) => {
  const { served, join, ask, pass, waits } = underTest();
  const [a, b] = [join("a"), join("b")];
  await ask("a", a);
  const second = ask("a", a);
  t.equal(waits(), 1, "b is waited for");
  pass();
  await second;
  for (let step = 0; step < 3; step++) await ask("a", a);
  t.equal(waits(), 0, "nobody waits for b again");
  await ask("b", b);
  await ask("a", a);
  await ask("a", a);
  t.equal(served.join(""), "aaaaabaa", "it came too late to be waited for at its next turn");
  await ask("b", b);
  await ask("a", a);
  await ask("b", b);
  const last = ask("a", a);
  await last;
  const beyond = ask("a", a);
  t.equal(waits(), 1, "it keeps pace again, so it is waited for again");
  pass();
  await beyond;
});

t.test("nobody is waited for while nobody is here", async (t) => {
  const { join, waits, ask } = underTest();
  const places = [join("a"), join("b")];
  t.equal(waits(), 0);
  await ask("a", places[0] as Place);
  t.equal(waits(), 0, "nor after a turn");
});

t.test("a device that has left is not waited for, and what it wanted is refused", async (t) => {
  const { served, join, ask, turns, waits } = underTest();
  const [a, b, c] = [join("a"), join("b"), join("c")];
  const waiting = ask("c", c);
  const refused = t.rejects(waiting, { code: "PROTOCOL_OUT_OF_TURN", message: /of c has ended/ });
  t.equal(waits(), 1, "a is to come first");
  c.leave();
  c.leave();
  await refused;
  const first = ask("b", b);
  a.leave();
  await first;
  t.same(served, ["b"]);
  const newer = join("b");
  await t.rejects(ask("b", b), { code: "PROTOCOL_OUT_OF_TURN" }, "its former place is left");
  await ask("b", newer);
  const [d, e] = [join("d"), join("e")];
  const work = [ask("d", d), ask("e", e), ask("b", newer)];
  const ends = Promise.allSettled(work);
  turns.close();
  t.same(
    (await ends).map(({ status }) => status),
    ["fulfilled", "rejected", "rejected"],
    "d was at work, and nobody follows",
  );
  await t.rejects(ask("b", newer), { code: "PROTOCOL_OUT_OF_TURN" });
});

t.test("work that fails fails alone, and two never run at once", async (t) => {
  const { join, ask, served } = underTest();
  const [a, b] = [join("a"), join("b")];
  let finish = () => {};
  const long = a.take(() => new Promise<void>((resolve) => (finish = resolve)));
  const next = ask("b", b);
  t.same(served, []);
  finish();
  await Promise.all([long, next]);
  await t.rejects(
    a.take(async () => {
      throw new Error("broken");
    }),
    /broken/,
  );
  await ask("b", b);
  t.same(served, ["b", "b"]);
});
