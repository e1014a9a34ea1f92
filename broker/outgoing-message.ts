// One message on its way out: which of its units are there, which are under way, and how it is found out that some are not.
// What was lost is learnt by asking, so that nothing the other end has is sent again.
import { type ChunkFrame, hasUnit, type StateFrame, unitBytes, unitCount } from "./codec/frames.ts";
import type { OutflowOptions } from "./outflow.ts";
import type { Departure } from "./window.ts";

/** What a message is made of. */
export interface OutgoingMessageOptions extends OutflowOptions {
  readonly id: string;
  readonly isBody: boolean;
  readonly bytes: Uint8Array;
  /** Sends what there is room for. */
  readonly pump: () => void;
}

/** Pieces that left after one and are there tell that it is lost: more than a network that reorders would swap. */
const overtakenBy = 3;

/** A piece under way, in units. */
interface Flight {
  readonly start: number;
  readonly end: number;
  readonly order: number;
  /** Probes sent before it was: an answer to a later one tells that it is lost. */
  readonly probesBefore: number;
  readonly departure: Departure;
}

/** A message until nobody waits for it any more. */
export class OutgoingMessage {
  isDelivered = false;
  readonly totalBytes: number;
  readonly #options: OutgoingMessageOptions;
  readonly #unitCount: number;
  /** Units that the other end has reported. */
  #there: Uint8Array;
  #flights: Flight[] = [];
  /** Every unit before it is there or under way. */
  #cursor = 0;
  /** Units sent at least once, from the first on, to count repeats. */
  #everSent = 0;
  #order = 0;
  #probes = 0;
  /** Nothing goes out until the other end has said what it has. */
  #isAsking = false;
  #silenceMs: number;
  #cancelTimer = () => {};

  constructor(options: OutgoingMessageOptions) {
    this.#options = options;
    this.totalBytes = options.bytes.byteLength;
    this.#unitCount = unitCount(this.totalBytes);
    this.#there = new Uint8Array(Math.ceil(this.#unitCount / 8));
    this.#silenceMs = options.silence.firstMs;
  }

  get wasSent(): boolean {
    return this.#order > 0;
  }

  inFlightBytes(): number {
    return this.#flights.reduce((total, { departure }) => total + departure.bytes, 0);
  }

  inFlightPieces(): number {
    return this.#flights.length;
  }

  missingBytes(): number {
    return Math.max(0, this.totalBytes - this.#cursor * unitBytes) + this.inFlightBytes();
  }

  /** Whether a piece is to go out. */
  hasWaiting(): boolean {
    return !this.#isAsking && this.#nextUnit() < this.#unitCount;
  }

  /** Sends the next piece and gives its bytes. */
  sendPiece(inFlightBytes: number): number {
    const { window } = this.#options;
    const start = this.#nextUnit();
    const mostUnits = window.pieceBytes() / unitBytes;
    let end = start + 1;
    while (end < this.#unitCount && end - start < mostUnits && this.#isFree(end)) {
      end += 1;
    }
    const bytes = Math.min(end * unitBytes, this.totalBytes) - start * unitBytes;
    const isRepeat = start < this.#everSent;
    this.#everSent = Math.max(this.#everSent, end);
    this.#cursor = end;
    this.#order += 1;
    const departure = window.depart({ bytes, inFlightBytes, isLast: !this.hasWaiting() });
    const probesBefore = this.#probes;
    this.#flights.push({ start, end, order: this.#order, probesBefore, departure });
    this.#options.publish(this.#chunk(start, bytes), isRepeat);
    this.#watch();
    return bytes;
  }

  heard(state: StateFrame): void {
    this.#silenceMs = this.#options.silence.firstMs;
    const isAnswer = state.probe > 0 && state.probe === this.#probes;
    if (state.isComplete) {
      this.isDelivered = true;
      this.#land(() => true);
      this.#flights = [];
      this.stop();
      return;
    }
    if (this.isDelivered) {
      this.#sendAgain(state);
      return;
    }
    if (isAnswer) {
      this.#forget();
      this.#isAsking = false;
    }
    this.#learn(state.units);
    this.#land(({ start, end }) => this.#areThere(start, end));
    this.#giveUp(this.#flights.filter(({ probesBefore }) => probesBefore < state.probe));
    this.#watch();
  }

  /** A body that was there and was used up: what needs it now needs it anew. Any other report came late. */
  #sendAgain({ units }: StateFrame): void {
    if (this.#options.isBody && units.byteLength === 0) {
      this.isDelivered = false;
      this.#forget();
    }
  }

  /** Asks what is there, once there can be anything. */
  probe(): void {
    if (!(this.wasSent || this.#isAsking)) {
      return;
    }
    const { instance, id: message } = this.#options;
    this.#probes += 1;
    this.#options.publish({ kind: "probe", instance, message, probe: this.#probes }, false);
    this.#watch();
  }

  restart(): void {
    this.isDelivered = false;
    this.#flights = [];
    this.#forget();
    this.#silenceMs = this.#options.silence.firstMs;
    if (this.#options.isBody) {
      this.#isAsking = true;
      this.probe();
    }
  }

  stop(): void {
    this.#cancelTimer();
  }

  /** What the other end has is to be learnt anew. */
  #forget(): void {
    this.#there.fill(0);
    this.#cursor = 0;
  }

  /** The first unit that is neither there nor under way. */
  #nextUnit(): number {
    while (this.#cursor < this.#unitCount && !this.#isFree(this.#cursor)) {
      this.#cursor += 1;
    }
    return this.#cursor;
  }

  #isFree(unit: number): boolean {
    return (
      !hasUnit(this.#there, unit) &&
      !this.#flights.some(({ start, end }) => unit >= start && unit < end)
    );
  }

  #areThere(start: number, end: number): boolean {
    for (let unit = start; unit < end; unit += 1) {
      if (!hasUnit(this.#there, unit)) {
        return false;
      }
    }
    return true;
  }

  #learn(units: Uint8Array): void {
    const length = Math.min(units.byteLength, this.#there.byteLength);
    for (let i = 0; i < length; i += 1) {
      this.#there[i] = (this.#there[i] ?? 0) | (units[i] ?? 0);
    }
  }

  /** Tells the window of the pieces that are there. */
  #land(isThere: (flight: Flight) => boolean): void {
    const { window } = this.#options;
    for (const flight of this.#flights.filter(isThere)) {
      window.arrived(flight.departure);
    }
    const newest = Math.max(0, ...this.#flights.filter(isThere).map(({ order }) => order));
    this.#flights = this.#flights.filter((flight) => !isThere(flight));
    const lost = this.#flights.filter(({ order }) => order + overtakenBy <= newest);
    this.#giveUp(lost);
  }

  #giveUp(lost: readonly Flight[]): void {
    this.#flights = this.#flights.filter((flight) => !lost.includes(flight));
    this.#cursor = Math.min(this.#cursor, ...lost.map(({ start }) => start));
  }

  #chunk(start: number, bytes: number): ChunkFrame {
    const { instance, id: message, isBody } = this.#options;
    const offset = start * unitBytes;
    const payload = this.#options.bytes.subarray(offset, offset + bytes);
    const { totalBytes } = this;
    return { kind: "chunk", instance, message, isBody, offset, totalBytes, payload };
  }

  #watch(): void {
    this.#cancelTimer();
    this.#cancelTimer = this.#options.clock.after(this.#silenceMs, () => {
      this.#silenceMs = Math.min(2 * this.#silenceMs, this.#options.silence.maxMs);
      this.probe();
      this.#options.pump();
    });
  }
}
