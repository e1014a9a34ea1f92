// The sending half of a delivery. Chunks go out while fewer than `window` are on their way to the other end:
// bytes in flight set the latency of everything else on a slow link, and a broker would hold what a slow
// reader does not take. What was lost is learnt by asking, so that nothing the other end has is sent again.
import type { Clock } from "./clock.ts";
import { chunkCount, type Frame, type StateFrame } from "./codec/frames.ts";

/** A message on its way. */
export interface Sending {
  /** Whether the other end has all of it. */
  readonly isDelivered: boolean;
  /** From its first chunk, because the other end has forgotten it. */
  restart(): void;
  /** Nobody waits for it any more. */
  cancel(): void;
}

/** The messages to one peer. */
export interface Outflow {
  send(bytes: Uint8Array): Sending;
  heard(state: StateFrame): void;
  /** Asks for the state of everything under way: the connection or the peer was away. */
  probeAll(): void;
  close(): void;
}

/** How messages go out. */
export interface OutflowOptions {
  readonly instance: string;
  readonly publish: (frame: Frame, isRepeat: boolean) => void;
  /** 16 random hexadecimal digits. */
  readonly newMessageId: () => string;
  readonly chunkBytes: number;
  /** Chunks on their way at once, at least two: the other end reports every second one. */
  readonly window: number;
  /** Silence before asking, and its limit while there is no answer. */
  readonly silence: { readonly firstMs: number; readonly maxMs: number };
  readonly clock: Clock;
}

/** Messages that take chunks of the window at once; the next waits until one of them is delivered. */
const openMessages = 4;

/** An outflow without messages. */
export function createOutflow(options: OutflowOptions): Outflow {
  const messages = new Map<string, Message>();
  const undelivered = () => [...messages.values()].filter((message) => !message.isDelivered);
  const pump = () => {
    const active = undelivered().slice(0, openMessages);
    let free =
      Math.max(2, options.window) -
      active.reduce((total, message) => total + message.inFlight(), 0);
    for (const message of active) {
      free -= message.sendUpTo(free);
    }
  };
  return {
    send: (bytes) => {
      const id = options.newMessageId();
      const message = createMessage(id, bytes, options);
      messages.set(id, message);
      pump();
      return {
        get isDelivered() {
          return message.isDelivered;
        },
        restart: () => {
          if (messages.has(id)) {
            message.restart();
            pump();
          }
        },
        cancel: () => {
          if (messages.delete(id)) {
            message.stop();
            if (!message.isDelivered && message.inFlight() > 0) {
              options.publish({ kind: "drop", instance: options.instance, message: id }, false);
            }
            pump();
          }
        },
      };
    },
    heard: (state) => {
      messages.get(state.message)?.heard(state);
      pump();
    },
    probeAll: () => {
      for (const message of undelivered()) {
        message.probe();
      }
    },
    close: () => {
      for (const message of messages.values()) {
        message.stop();
      }
      messages.clear();
    },
  };
}

interface Message {
  isDelivered: boolean;
  inFlight(): number;
  /** Sends at most `free` chunks and returns how many. */
  sendUpTo(free: number): number;
  heard(state: StateFrame): void;
  probe(): void;
  restart(): void;
  stop(): void;
}

function createMessage(id: string, bytes: Uint8Array, options: OutflowOptions): Message {
  return new StandingMessage(id, bytes, options);
}

/** Where a chunk is. */
const waiting = 0;
const sent = 1;
const received = 2;

class StandingMessage implements Message {
  isDelivered = false;
  readonly #id: string;
  readonly #bytes: Uint8Array;
  readonly #options: OutflowOptions;
  readonly #chunks: Uint8Array;
  /** Probes sent before each chunk was: an answer to a later one tells that it is lost. */
  readonly #probesBefore: Uint32Array;
  #probes = 0;
  /** Chunks sent at least once, to count repeats. */
  #everSent = 0;
  #inFlight = 0;
  #silenceMs: number;
  #cancelTimer = () => {};

  constructor(id: string, bytes: Uint8Array, options: OutflowOptions) {
    this.#id = id;
    this.#bytes = bytes;
    this.#options = options;
    this.#chunks = new Uint8Array(chunkCount(bytes.byteLength, options.chunkBytes));
    this.#probesBefore = new Uint32Array(this.#chunks.length);
    this.#silenceMs = options.silence.firstMs;
  }

  inFlight(): number {
    return this.#inFlight;
  }

  sendUpTo(free: number): number {
    let count = 0;
    while (count < free) {
      const index = this.#chunks.indexOf(waiting);
      if (index === -1) {
        break;
      }
      this.#sendChunk(index);
      count += 1;
    }
    return count;
  }

  heard(state: StateFrame): void {
    this.#silenceMs = this.#options.silence.firstMs;
    if (state.isComplete) {
      this.isDelivered = true;
      this.#inFlight = 0;
      this.stop();
      return;
    }
    for (let index = 0; index < this.#chunks.length; index += 1) {
      const isHere = ((state.chunks[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
      if (isHere) {
        this.#chunks[index] = received;
      } else if ((this.#probesBefore[index] ?? 0) < state.probe) {
        this.#chunks[index] = waiting;
      }
    }
    this.#inFlight = this.#chunks.filter((chunk) => chunk === sent).length;
    this.#watch();
  }

  probe(): void {
    if (this.#everSent > 0) {
      const { instance } = this.#options;
      this.#probes += 1;
      const probe = { kind: "probe", instance, message: this.#id, probe: this.#probes } as const;
      this.#options.publish(probe, false);
      this.#watch();
    }
  }

  restart(): void {
    this.isDelivered = false;
    this.#chunks.fill(waiting);
    this.#inFlight = 0;
    this.#silenceMs = this.#options.silence.firstMs;
  }

  stop(): void {
    this.#cancelTimer();
  }

  #sendChunk(index: number): void {
    const { instance, chunkBytes } = this.#options;
    const payload = this.#bytes.subarray(index * chunkBytes, (index + 1) * chunkBytes);
    const totalBytes = this.#bytes.byteLength;
    const message = this.#id;
    const isRepeat = index < this.#everSent;
    this.#everSent = Math.max(this.#everSent, index + 1);
    this.#chunks[index] = sent;
    this.#probesBefore[index] = this.#probes;
    this.#inFlight += 1;
    const frame = {
      kind: "chunk",
      instance,
      message,
      index,
      chunkBytes,
      totalBytes,
      payload,
    } as const;
    this.#options.publish(frame, isRepeat);
    this.#watch();
  }

  #watch(): void {
    this.#cancelTimer();
    this.#cancelTimer = this.#options.clock.after(this.#silenceMs, () => {
      this.#silenceMs = Math.min(2 * this.#silenceMs, this.#options.silence.maxMs);
      this.probe();
    });
  }
}
