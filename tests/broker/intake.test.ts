// Room for what comes in, over all links: first come first served, and nobody keeps others out for ever.
import t from "tap";
import { createIntake } from "../../broker/index.ts";
import { createManualClock } from "./manual-clock.ts";
import { equal, join, noise, until } from "./peers.ts";

t.test("who does not fit waits, and is let in by turns when others leave", (t) => {
  const clock = createManualClock();
  const intake = createIntake({ maxBytes: 100, clock });
  const granted: string[] = [];
  const enter = (name: string, bytes: number) => intake.enter(bytes, () => granted.push(name));
  const [a, b] = [enter("a", 60), enter("b", 30)];
  const [c, d] = [enter("c", 50), enter("d", 10)];
  t.strictSame(
    [a, b, c, d].map(({ isGranted }) => isGranted),
    [true, true, false, false],
  );
  b.leave();
  t.strictSame(granted, [], "c is next and does not fit: d does not overtake it");
  a.leave();
  a.leave();
  t.strictSame(granted, ["c", "d"]);
  const large = enter("large", 1000);
  t.equal(large.isGranted, false);
  c.leave();
  d.leave();
  t.equal(large.isGranted, true, "alone it may be larger than the room");
  t.end();
});

t.test("a body that stands still makes room, one that comes on stays", (t) => {
  const clock = createManualClock();
  const intake = createIntake({ maxBytes: 100, clock });
  const still = intake.enter(100, () => {});
  clock.advance(4000);
  still.touch();
  const next = intake.enter(100, () => {});
  clock.advance(4000);
  t.equal(next.isGranted, false);
  clock.advance(1000);
  t.equal(next.isGranted, true);
  t.end();
});

t.test(
  "a sender that has to wait stops at its window, and goes on when it is let in",
  async (t) => {
    const clock = createManualClock();
    const intake = createIntake({ maxBytes: 1000, clock });
    const other = intake.enter(1000, () => {});
    const sent = noise(300_000, 1);
    const isWhole = async ({ blobs }: { readonly blobs: ReadonlyMap<string, Uint8Array> }) => {
      return { kind: "done", fields: { isWhole: equal(blobs.get("x"), sent) } };
    };
    const { device } = await join(t, isWhole, {
      intake,
      fixedWindow: { pieceBytes: 4096, pieces: 4 },
    });
    const request = device.request({ kind: "upload", blobs: new Map([["x", sent]]) });
    await until(() => device.counters().sentBytes > 4 * 4096);
    for (let i = 0; i < 100; i += 1) await new Promise((resolve) => setImmediate(resolve));
    // A window, and one more for the answer to the question that a peer's hello raises.
    t.ok(device.counters().sentBytes < 9 * 4300, `${device.counters().sentBytes}`);
    other.leave();
    t.strictSame((await request).fields, { isWhole: true });
  },
);
