// The window against a link that is computed: a wire of some rate, a way of some length, and a queue before them.
import t from "tap";
import { createWindow, type Departure } from "../../broker/window.ts";
import { createManualClock } from "./manual-clock.ts";

t.test("the window fills links of any rate and leaves a short queue", (t) => {
  for (const megabits of [0.25, 1, 10, 100, 1000]) {
    for (const roundTripMs of [1, 50, 300]) {
      const link = { bytesPerMs: 125 * megabits, roundTripMs };
      const flight = fly(link, 10_000);
      const { share, queueMs, pieceBytes } = fly(link, 20_000, flight);
      const what = `${megabits} Mbit/s, ${roundTripMs} ms: ${(100 * share).toFixed(0)} %, queue ${queueMs.toFixed(0)} ms`;
      const isCapped = link.bytesPerMs * roundTripMs > 8 * 1024 * 1024;
      t.ok(share > 0.9 || isCapped, what);
      // A piece of the smallest size takes 131 ms at 250 kbit/s.
      const leastMs = (3 * 4096) / link.bytesPerMs;
      t.ok(queueMs < Math.max(160, roundTripMs, leastMs), what);
      t.ok(pieceBytes % 4096 === 0 && pieceBytes <= 126_976, `${pieceBytes} bytes`);
    }
  }
  t.end();
});

t.test("a link that slows down is noticed, and one that gets faster too", (t) => {
  const link = { bytesPerMs: 12_500, roundTripMs: 50 };
  const flight = fly(link, 5000);
  link.bytesPerMs = 125;
  const slower = fly(link, 60_000, flight);
  t.ok(slower.share > 0.9 && slower.queueMs < 200, `queue ${slower.queueMs} ms`);
  link.bytesPerMs = 12_500;
  const faster = fly(link, 20_000, flight);
  t.ok(faster.share > 0.9, `${faster.share}`);
  t.end();
});

t.test("a way that gets longer is measured again", (t) => {
  const link = { bytesPerMs: 1250, roundTripMs: 20 };
  const flight = fly(link, 5000);
  link.roundTripMs = 400;
  fly(link, 30_000, flight);
  const longer = fly(link, 20_000, flight);
  t.ok(longer.share > 0.85, `${longer.share}`);
  t.end();
});

t.test("small messages say nothing of the rate, and another connection begins anew", (t) => {
  const clock = createManualClock();
  const window = createWindow({ clock, maxPieceBytes: () => 130_000 });
  const first = { limit: window.limitBytes(), piece: window.pieceBytes() };
  t.strictSame(first, { limit: 2 * 16_384, piece: 16_384 }, "2 x 16 KiB");
  for (let i = 0; i < 20; i += 1) {
    const departure = window.depart({ bytes: 100, inFlightBytes: 0, isLast: true });
    clock.advance(50);
    window.arrived(departure);
  }
  t.equal(window.limitBytes(), first.limit);
  const departure = window.depart({ bytes: 16_384, inFlightBytes: 0, isLast: false });
  clock.advance(50);
  window.arrived(departure);
  t.ok(window.limitBytes() > first.limit);
  window.restart();
  t.equal(window.limitBytes(), first.limit);
  t.end();
});

interface Wire {
  bytesPerMs: number;
  roundTripMs: number;
}

interface Flight {
  readonly clock: ReturnType<typeof createManualClock>;
  readonly window: ReturnType<typeof createWindow>;
  underWay: { readonly departure: Departure; readonly reportedAtMs: number }[];
  freeAtMs: number;
}

/** Sends as much as the window lets for so long; every second piece is reported, as a receiver does. */
function fly(link: Wire, forMs: number, flight: Flight = takeOff()) {
  const { clock, window } = flight;
  const started = clock.now();
  let delivered = 0;
  let pieces = 0;
  const queues: number[] = [];
  while (clock.now() - started < forMs) {
    const inFlight = () => flight.underWay.reduce((sum, { departure }) => sum + departure.bytes, 0);
    while (flight.underWay.length < 2 || inFlight() < window.limitBytes()) {
      const bytes = window.pieceBytes();
      const departure = window.depart({ bytes, inFlightBytes: inFlight(), isLast: false });
      queues.push(Math.max(0, flight.freeAtMs - clock.now()));
      flight.freeAtMs = Math.max(flight.freeAtMs, clock.now()) + bytes / link.bytesPerMs;
      flight.underWay.push({ departure, reportedAtMs: flight.freeAtMs + link.roundTripMs });
    }
    const next = flight.underWay[1]?.reportedAtMs ?? 0;
    clock.advance(Math.max(0, next - clock.now()));
    for (const { departure } of flight.underWay.splice(0, 2)) {
      window.arrived(departure);
      delivered += departure.bytes;
      pieces += 1;
    }
  }
  const half = queues.slice(Math.floor(queues.length / 2)).sort((a, b) => a - b);
  return {
    ...flight,
    share: delivered / (link.bytesPerMs * (clock.now() - started)),
    queueMs: half[Math.floor(half.length / 2)] ?? 0,
    pieceBytes: window.pieceBytes(),
    pieces,
  };
}

function takeOff(): Flight {
  const clock = createManualClock();
  const window = createWindow({ clock, maxPieceBytes: () => 130_000 });
  return { clock, window, underWay: [], freeAtMs: 0 };
}
