// The sending half of a delivery: which message's piece goes out next, and how many bytes may be on their way.
import type { Clock } from "./clock.ts";
import type { Body } from "./codec/body.ts";
import { type Frame, type StateFrame, unitBytes } from "./codec/frames.ts";
import { OutgoingMessage } from "./outgoing-message.ts";
import type { FlightWindow } from "./window.ts";

/** A message on its way. */
export interface Sending {
  /** Whether the other end has all of it. */
  readonly isDelivered: boolean;
  /** The other end is another process: a message goes out from its first byte, of a body what is missing there. */
  restart(): void;
  /** Nobody waits for it any more. */
  cancel(): void;
}

/** The messages to one peer. */
export interface Outflow {
  send(bytes: Uint8Array): Sending;
  /**
   * Sends a body, named by its sha256. One that may have come in part before, from another process of this end, begins
   * with asking what is there.
   */
  sendBody(body: Body, options: { readonly mayBeThere: boolean }): Sending;
  heard(state: StateFrame): void;
  /** Asks for the state of everything under way: the connection or the peer was away. */
  probeAll(): void;
  /** Bytes that the other end does not have yet. */
  waitingBytes(): number;
  close(): void;
}

/** The name by which frames know a body: the first of its sha256. */
export function bodyName(sha256: Uint8Array): string {
  return Buffer.from(sha256).toString("hex", 0, 8);
}

/** How messages go out. */
export interface OutflowOptions {
  readonly instance: string;
  readonly publish: (frame: Frame, isRepeat: boolean) => void;
  /** 16 random hexadecimal digits. */
  readonly newMessageId: () => string;
  readonly window: FlightWindow;
  /** Silence before asking, and its limit while there is no answer. */
  readonly silence: { readonly firstMs: number; readonly maxMs: number };
  readonly clock: Clock;
}

/** A message so small that it waits for nobody: what steers a round must not queue behind what fills it. */
const expressBytes = unitBytes;

/** Larger messages that are under way at once: the other end holds no more than twice as many in part. */
const openMessages = 4;

function isExpress({ totalBytes }: OutgoingMessage): boolean {
  return totalBytes <= expressBytes;
}

/** Those that may send: every express one, and of the others the oldest few. */
function firstInLine(undelivered: readonly OutgoingMessage[]): readonly OutgoingMessage[] {
  const large = undelivered.filter((message) => !isExpress(message)).slice(0, openMessages);
  return undelivered.filter((message) => isExpress(message) || large.includes(message));
}

/** An outflow without messages. */
export function createOutflow(options: OutflowOptions): Outflow {
  return new StandingOutflow(options);
}

class StandingOutflow implements Outflow {
  readonly #options: OutflowOptions;
  readonly #messages = new Map<string, Shared>();

  constructor(options: OutflowOptions) {
    this.#options = options;
  }

  send(bytes: Uint8Array): Sending {
    const id = this.#options.newMessageId();
    const message = this.#begin(id, false, bytes);
    this.#pump();
    return this.#sendingOf(id, message);
  }

  sendBody({ sha256, bytes }: Body, { mayBeThere }: { readonly mayBeThere: boolean }): Sending {
    const id = bodyName(sha256);
    const message = this.#begin(id, true, bytes);
    if (mayBeThere) {
      message.restart();
    }
    this.#pump();
    return this.#sendingOf(id, message);
  }

  heard(state: StateFrame): void {
    this.#messages.get(state.message)?.message.heard(state);
    this.#pump();
  }

  probeAll(): void {
    for (const message of this.#undelivered()) {
      message.probe();
    }
  }

  waitingBytes(): number {
    return this.#undelivered().reduce((total, message) => total + message.missingBytes(), 0);
  }

  close(): void {
    for (const { message } of this.#messages.values()) {
      message.stop();
    }
    this.#messages.clear();
  }

  #undelivered(): readonly OutgoingMessage[] {
    const all = [...this.#messages.values()].map(({ message }) => message);
    return all.filter((message) => !message.isDelivered);
  }

  /** A piece of each in turn while the window has room. */
  #pump(): void {
    const active = firstInLine(this.#undelivered());
    const large = active.filter((message) => !isExpress(message));
    const total = (of: (message: OutgoingMessage) => number) =>
      large.reduce((sum, message) => sum + of(message), 0);
    let bytes = total((message) => message.inFlightBytes());
    let pieces = total((message) => message.inFlightPieces());
    // The other end reports every second piece: one alone would wait for its report.
    const fits = () => pieces < 2 || bytes < this.#options.window.limitBytes();
    let isMoving = true;
    while (isMoving) {
      isMoving = false;
      for (const message of active) {
        if (!message.hasWaiting() || !(isExpress(message) || fits())) {
          continue;
        }
        const sent = message.sendPiece(bytes);
        bytes += isExpress(message) ? 0 : sent;
        pieces += isExpress(message) ? 0 : 1;
        isMoving = true;
      }
    }
  }

  #begin(id: string, isBody: boolean, bytes: Uint8Array): OutgoingMessage {
    const known = this.#messages.get(id);
    const pump = () => this.#pump();
    const message =
      known?.message ?? new OutgoingMessage({ ...this.#options, id, isBody, bytes, pump });
    this.#messages.set(id, { message, senders: (known?.senders ?? 0) + 1 });
    return message;
  }

  #sendingOf(id: string, message: OutgoingMessage): Sending {
    let isCancelled = false;
    return {
      get isDelivered() {
        return message.isDelivered;
      },
      restart: () => {
        if (!isCancelled) {
          message.restart();
          this.#pump();
        }
      },
      cancel: () => {
        if (!isCancelled) {
          isCancelled = true;
          this.#release(id);
        }
      },
    };
  }

  #release(id: string): void {
    const shared = this.#messages.get(id);
    if (shared === undefined) {
      return;
    }
    const { message, senders } = shared;
    if (senders > 1) {
      this.#messages.set(id, { message, senders: senders - 1 });
      return;
    }
    this.#messages.delete(id);
    message.stop();
    if (!message.isDelivered && message.wasSent) {
      const { publish, instance } = this.#options;
      publish({ kind: "drop", instance, message: id }, false);
    }
    this.#pump();
  }
}

/** A message and how many wait for it: two replies may have the same body. */
interface Shared {
  readonly message: OutgoingMessage;
  readonly senders: number;
}
