// Whose turn it is at what several devices train in common: one after another in device-id order. A device is waited for, but
// not for long and not twice: from then on it is served when it comes, until it keeps pace again.
import { compareDeviceIds } from "../aggregation/index.ts";
import { outOfTurn } from "../payload.ts";
import type { After } from "../protocol.ts";

/** The order of some devices' work. */
export interface Turns {
  /** A place for a device; a place that it has already is left. */
  join(deviceId: string): Place;
  /** Every place is left. */
  close(): void;
}

/** A device's place in the order. */
export interface Place {
  /** Does `work` when it is the device's turn; one at a time. Rejects with `PROTOCOL_OUT_OF_TURN` when the place is left before. */
  take<T>(work: () => Promise<T>): Promise<T>;
  /** The device is not waited for any more. Safe to call twice. */
  leave(): void;
}

/** How long a device is waited for. */
export interface TurnsOptions {
  readonly patienceMs: number;
  readonly after: After;
}

/** An order without devices. */
export function createTurns(options: TurnsOptions): Turns {
  return new RoundRobin(options);
}

interface Seat {
  readonly deviceId: string;
  /** What the device wants to be done; absent while it is elsewhere. */
  work?: Work | undefined;
  /** Whether others wait when it is its turn. */
  isAwaited: boolean;
  /** Whether others were served in its place since its last turn. */
  hasMissed: boolean;
}

interface Work {
  readonly run: () => Promise<void>;
  readonly refuse: (reason: Error) => void;
}

class RoundRobin implements Turns {
  readonly #options: TurnsOptions;
  /** In device-id order. */
  #seats: readonly Seat[] = [];
  /** Whose turn was last. */
  #last: string | undefined;
  #isBusy = false;
  #awaited: { readonly seat: Seat; readonly cancel: () => void } | undefined;

  constructor(options: TurnsOptions) {
    this.#options = options;
  }

  join(deviceId: string): Place {
    const former = this.#seats.find((seat) => seat.deviceId === deviceId);
    if (former) this.#leave(former);
    const seat: Seat = { deviceId, isAwaited: true, hasMissed: false };
    this.#seats = [...this.#seats, seat].sort((a, b) => compareDeviceIds(a.deviceId, b.deviceId));
    return {
      take: (work) => this.#take(seat, work),
      leave: () => this.#leave(seat),
    };
  }

  close(): void {
    const seats = this.#seats;
    // All at once, or one that leaves would let another begin.
    this.#seats = [];
    for (const seat of seats) this.#leave(seat);
  }

  #take<T>(seat: Seat, work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (!this.#seats.includes(seat)) return reject(left(seat));
      const end = () => this.#end();
      seat.work = { run: () => work().finally(end).then(resolve, reject), refuse: reject };
      this.#next();
    });
  }

  #end(): void {
    this.#isBusy = false;
    this.#next();
  }

  #leave(seat: Seat): void {
    this.#seats = this.#seats.filter((other) => other !== seat);
    seat.work?.refuse(left(seat));
    seat.work = undefined;
    this.#next();
  }

  /** Serves the first in turn that is here, unless one before it is worth waiting for. */
  #next(): void {
    if (this.#isBusy) return;
    const order = this.#fromLast();
    const isHere = order.some(({ work }) => work !== undefined);
    const first = isHere ? order.find(({ work, isAwaited }) => work || isAwaited) : undefined;
    if (this.#awaited && this.#awaited.seat !== first) this.#stopWaiting();
    if (first?.work) this.#serve(first, order.slice(0, order.indexOf(first)));
    else if (first) this.#awaited ??= { seat: first, cancel: this.#watch(first) };
  }

  #serve(seat: Seat, passedOver: readonly Seat[]): void {
    this.#stopWaiting();
    for (const other of passedOver) other.hasMissed = true;
    const { work } = seat;
    seat.work = undefined;
    seat.isAwaited = !seat.hasMissed;
    seat.hasMissed = false;
    this.#last = seat.deviceId;
    this.#isBusy = true;
    void work?.run();
  }

  #watch(seat: Seat): () => void {
    return this.#options.after(this.#options.patienceMs, () => {
      seat.isAwaited = false;
      this.#next();
    });
  }

  #stopWaiting(): void {
    this.#awaited?.cancel();
    this.#awaited = undefined;
  }

  /** The seats, beginning behind the one whose turn was last. */
  #fromLast(): readonly Seat[] {
    const last = this.#last;
    if (last === undefined) return this.#seats;
    const isBehind = ({ deviceId }: Seat) => compareDeviceIds(deviceId, last) > 0;
    return [...this.#seats.filter(isBehind), ...this.#seats.filter((seat) => !isBehind(seat))];
  }
}

function left({ deviceId }: Seat): Error {
  return outOfTurn(`split: the lane of ${deviceId} has ended`);
}
