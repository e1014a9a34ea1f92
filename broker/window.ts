// How many bytes may be on their way to the other end, and in how large pieces. Bytes in flight set the latency of everything
// else on a slow link, and too few of them leave a long one idle. As in BBR (Cardwell et al., "BBR: Congestion-Based Congestion
// Control", ACM Queue 14(5), 2016) both follow from two measures that loss does not disturb: the highest rate of delivery and
// the shortest round trip of late. What is acknowledged is what the other end reports, not what a broker took.
import type { Clock } from "./clock.ts";
import { unitBytes } from "./codec/frames.ts";

/** What a piece takes along to tell, once it is reported, how fast the link is. */
export interface Departure {
  readonly bytes: number;
  readonly sentAtMs: number;
  /** Reported bytes at that time, and when the last report had come. */
  readonly deliveredBytes: number;
  readonly deliveredAtMs: number;
  /** Little was under way, on purpose: its round trip holds no queue. */
  readonly isAlone: boolean;
  /** Nothing waited behind it: what was asked of the link is no measure of what it could have done. */
  readonly isLast: boolean;
}

/** The window of one peer. */
export interface FlightWindow {
  /** Most bytes in flight. */
  limitBytes(): number;
  /** Bytes of the next piece: whole units. */
  pieceBytes(): number;
  /** A piece goes out. */
  depart(piece: Departing): Departure;
  /** It is there. */
  arrived(departure: Departure): void;
  /** Another connection: rate and round trip are to be measured again. */
  restart(): void;
}

/** A piece about to go out, with what is under way and whether more waits behind it. */
export interface Departing extends Pick<Departure, "bytes" | "isLast"> {
  readonly inFlightBytes: number;
}

/** What bounds a window. */
export interface WindowOptions {
  readonly clock: Clock;
  /** Largest piece, so that its packet passes the broker. */
  readonly maxPieceBytes: () => number;
  /** A size in the place of the measured one, for tests. */
  readonly fixed?: { readonly pieceBytes: number; readonly pieces: number };
}

/** Time that a queue of our own may add to the round trip: what keeps the link busy between two reports. */
const queueMs = 100;

/** Time that one piece may take to leave: short, or it alone would hold up what comes behind it. */
const pieceMs = 30;

/** The highest rate of so many round trips counts, of those not too long ago: a link may have become another. */
const rememberedRounds = 10;
const rateAgeMs = 10_000;

/** A round trip that old is measured again, with two pieces under way: queue and link look alike from outside. */
const baseAgeMs = 10_000;

/** Before anything is measured: 2 x 16 KiB keep a link of 1 Mbit/s busy and a control message on it at 0.3 s. */
const firstPieceBytes = 4 * unitBytes;

/** Bytes that one peer may have in flight, whatever the link: what a broker would hold for a reader that stopped. */
const mostBytes = 8 * 1024 * 1024;

/** A window that knows nothing of its link yet. */
export function createWindow(options: WindowOptions): FlightWindow {
  return new StandingWindow(options);
}

class StandingWindow implements FlightWindow {
  readonly #options: WindowOptions;
  #deliveredBytes = 0;
  #deliveredAtMs = 0;
  /** Highest bytes per millisecond of each of the last rounds, newest last. */
  #rates: Rate[] = [];
  /** Delivered bytes at which the current round ends: those of a piece that left after it began. */
  #roundEndsAt = 0;
  #baseMs = Number.POSITIVE_INFINITY;
  #baseAtMs = 0;
  #isMeasuring = false;

  constructor(options: WindowOptions) {
    this.#options = options;
  }

  limitBytes(): number {
    const { fixed } = this.#options;
    if (fixed) {
      return fixed.pieces * fixed.pieceBytes;
    }
    const least = 2 * this.pieceBytes();
    const rate = this.#rate();
    if (rate === undefined || this.#isMeasuring) {
      return least;
    }
    // Half of the round trip lets a long link double its rate in few rounds.
    const spareMs = Math.max(queueMs, this.#baseMs / 2);
    return Math.min(mostBytes, Math.max(least, rate * (this.#baseMs + spareMs)));
  }

  pieceBytes(): number {
    const { fixed, maxPieceBytes } = this.#options;
    if (fixed) {
      return fixed.pieceBytes;
    }
    const rate = this.#rate();
    const wanted = rate === undefined ? firstPieceBytes : rate * pieceMs;
    const most = Math.max(1, Math.floor(maxPieceBytes() / unitBytes));
    return unitBytes * Math.min(most, Math.max(1, Math.floor(wanted / unitBytes)));
  }

  depart({ bytes, isLast, inFlightBytes }: Departing): Departure {
    const sentAtMs = this.#options.clock.now();
    if (inFlightBytes === 0) {
      // The time that nothing was asked of the link says nothing of its rate.
      this.#deliveredAtMs = sentAtMs;
    }
    const isOld = sentAtMs - this.#baseAtMs > baseAgeMs && Number.isFinite(this.#baseMs);
    this.#isMeasuring ||= isOld;
    const isAlone = this.#isMeasuring && inFlightBytes + bytes <= this.limitBytes();
    const delivered = {
      deliveredBytes: this.#deliveredBytes,
      deliveredAtMs: this.#deliveredAtMs,
    };
    return { bytes, sentAtMs, ...delivered, isAlone, isLast };
  }

  arrived({ bytes, sentAtMs, isAlone, ...then }: Departure): void {
    const now = this.#options.clock.now();
    this.#deliveredBytes += bytes;
    this.#deliveredAtMs = now;
    this.#measureBase(now - sentAtMs, now, isAlone);
    const tookMs = Math.max(now - then.deliveredAtMs, this.#baseMs, 0.1);
    const bytesPerMs = (this.#deliveredBytes - then.deliveredBytes) / tookMs;
    const known = this.#rate();
    if (!then.isLast || (known !== undefined && bytesPerMs > known)) {
      this.#measureRate({ bytesPerMs, atMs: now }, then.deliveredBytes);
    }
  }

  restart(): void {
    this.#rates = [];
    this.#roundEndsAt = this.#deliveredBytes;
    this.#baseMs = Number.POSITIVE_INFINITY;
    this.#isMeasuring = false;
  }

  #measureBase(roundTripMs: number, now: number, isAlone: boolean): void {
    if (roundTripMs > this.#baseMs && !isAlone) {
      return;
    }
    this.#baseMs = roundTripMs;
    this.#baseAtMs = now;
    this.#isMeasuring = false;
  }

  #measureRate(rate: Rate, deliveredBytes: number): void {
    const newest = this.#rates.at(-1);
    if (newest === undefined || deliveredBytes >= this.#roundEndsAt) {
      this.#roundEndsAt = this.#deliveredBytes;
      this.#rates = [...this.#rates, rate].slice(-rememberedRounds);
    } else if (rate.bytesPerMs > newest.bytesPerMs) {
      this.#rates[this.#rates.length - 1] = rate;
    }
  }

  /** The highest of late, in bytes per millisecond. */
  #rate(): number | undefined {
    const since = this.#options.clock.now() - rateAgeMs;
    this.#rates = this.#rates.filter(({ atMs }) => atMs >= since);
    return this.#rates.length === 0
      ? undefined
      : Math.max(...this.#rates.map(({ bytesPerMs }) => bytesPerMs));
  }
}

interface Rate {
  readonly bytesPerMs: number;
  readonly atMs: number;
}
