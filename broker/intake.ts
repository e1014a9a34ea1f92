// How much may be on its way in at once, over all links of a process. A thousand devices that finish a round together would
// otherwise fill the coordinator's memory: whoever has to wait is not told what of its body is here, so its window stops it.
import type { Clock } from "./clock.ts";

/** Room for bodies on their way in, first come first served. */
export interface Intake {
  /** Asks for room; `onGranted` is called once there is some, unless there was at once. */
  enter(bytes: number, onGranted: () => void): Ticket;
}

/** A body's place in the intake. */
export interface Ticket {
  readonly isGranted: boolean;
  /** More of the body has come. */
  touch(): void;
  /** The body is done with. Safe to call twice. */
  leave(): void;
}

/** What bounds an intake. */
export interface IntakeOptions {
  /** A larger body is let in when there is no other. */
  readonly maxBytes: number;
  readonly clock: Clock;
}

/** A body of which nothing comes for so long, or that is worked on for so long, does not keep others out. */
const patienceMs = 5000;

/** An empty intake. */
export function createIntake(options: IntakeOptions): Intake {
  return new StandingIntake(options);
}

class StandingIntake implements Intake {
  readonly #options: IntakeOptions;
  readonly #waiting = new Set<Place>();
  readonly #inside = new Set<Place>();

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  enter(bytes: number, onGranted: () => void): Ticket {
    const place: Place = { bytes, onGranted, isGranted: false, cancelTimer: () => {} };
    this.#waiting.add(place);
    this.#admit(place);
    return {
      get isGranted() {
        return place.isGranted;
      },
      touch: () => {
        if (this.#inside.has(place)) this.#watch(place);
      },
      leave: () => this.#leave(place),
    };
  }

  /** Lets in whoever is next; `newcomer` learns of it by its ticket. */
  #admit(newcomer?: Place): void {
    for (const place of this.#waiting) {
      const total = [...this.#inside].reduce((sum, { bytes }) => sum + bytes, place.bytes);
      if (total > this.#options.maxBytes && this.#inside.size > 0) return;
      this.#waiting.delete(place);
      this.#inside.add(place);
      place.isGranted = true;
      this.#watch(place);
      if (place !== newcomer) place.onGranted();
    }
  }

  #watch(place: Place): void {
    place.cancelTimer();
    place.cancelTimer = this.#options.clock.after(patienceMs, () => this.#leave(place));
  }

  #leave(place: Place): void {
    place.cancelTimer();
    this.#waiting.delete(place);
    if (this.#inside.delete(place)) this.#admit();
  }
}

interface Place {
  readonly bytes: number;
  readonly onGranted: () => void;
  isGranted: boolean;
  cancelTimer: () => void;
}
