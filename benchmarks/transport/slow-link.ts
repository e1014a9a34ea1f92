// A link of a given rate, round trip and loss between two TCP sockets of this machine, in user space: no rights are needed, and
// what loss does to a TCP stream is modelled, since a proxy cannot lose bytes of one. Each direction is a wire that all connections
// share. Segments of 1460 bytes carry 40 bytes of headers; a lost one is sent again a round trip later, holds up those behind it and
// halves the congestion window, which grows as Reno's does (RFC 5681): slow start, then a segment a round trip.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { randomStream } from "../../runtime/index.ts";

/** What the link is like. */
export interface SlowLinkOptions {
  /** Where it leads, on loopback. */
  readonly target: number;
  /** Of each direction, headers included. */
  readonly bitsPerSecond: number;
  readonly roundTripMs: number;
  /** Share of segments that are lost; 0 leaves the congestion window unbounded. */
  readonly lossFraction?: number;
}

/** A listening link. */
export interface SlowLink {
  readonly port: number;
  close(): Promise<void>;
}

const segmentBytes = 1460;
const headerBytes = 40;

/** A router's buffer: bytes beyond it wait at the sender. */
const bufferMs = 20;

/** Bytes taken from a socket before it is paused. */
const heldBytes = 64 * 1024;

/** Starts a link on a free port of loopback. */
export async function startSlowLink(options: SlowLinkOptions): Promise<SlowLink> {
  const sockets = new Set<Socket>();
  const agenda = createAgenda();
  const wires = { up: createWire(options), down: createWire(options) };
  const server = createServer({ noDelay: true }, (near) => {
    const far = connect({ port: options.target, host: "127.0.0.1", noDelay: true });
    for (const [source, sink, way] of [
      [near, far, "up"],
      [far, near, "down"],
    ] as const) {
      sockets.add(source);
      source.on("error", () => {});
      source.on("close", () => {
        sockets.delete(source);
        sink.destroy();
      });
      const stream = new Stream({ source, sink, wire: wires[way], agenda, options });
      source.on("data", (bytes) => stream.take(bytes));
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

interface Segment {
  readonly bytes: Buffer;
  readonly order: number;
}

interface StreamOptions {
  readonly source: Socket;
  readonly sink: Socket;
  readonly wire: Wire;
  readonly agenda: Agenda;
  readonly options: SlowLinkOptions;
}

/** One direction of one connection. */
class Stream {
  readonly #options: StreamOptions;
  readonly #random = randomStream("slow-link", 1);
  readonly #loss: number;
  #waiting: Segment[] = [];
  #waitingBytes = 0;
  #order = 0;
  /** Segments that came before one that was lost. */
  readonly #early = new Map<number, Buffer>();
  #nextOrder = 0;
  #inFlight = 0;
  /** In segments, as the congestion window is counted here. */
  #window = 10;
  #threshold = Number.POSITIVE_INFINITY;
  #halvedAtMs = Number.NEGATIVE_INFINITY;
  #isPumping = false;

  constructor(options: StreamOptions) {
    this.#options = options;
    this.#loss = options.options.lossFraction ?? 0;
  }

  take(bytes: Buffer): void {
    for (let at = 0; at < bytes.byteLength; at += segmentBytes) {
      this.#waiting.push({ bytes: bytes.subarray(at, at + segmentBytes), order: this.#order });
      this.#order += 1;
    }
    this.#waitingBytes += bytes.byteLength;
    if (this.#waitingBytes > heldBytes) this.#options.source.pause();
    this.#pump();
  }

  #pump(): void {
    const { wire, agenda, source } = this.#options;
    const isLimited = () => this.#loss > 0 && this.#inFlight >= this.#window;
    while (this.#waiting.length > 0 && !isLimited()) {
      const backlogMs = wire.backlogMs(performance.now());
      if (backlogMs > bufferMs) {
        if (!this.#isPumping)
          agenda.at(performance.now() + backlogMs - bufferMs / 2, () => this.#resume());
        this.#isPumping = true;
        break;
      }
      const segment = this.#waiting.shift() as Segment;
      this.#waitingBytes -= segment.bytes.byteLength;
      this.#inFlight += 1;
      this.#send(segment);
    }
    if (this.#waitingBytes <= heldBytes / 2) source.resume();
  }

  #resume(): void {
    this.#isPumping = false;
    this.#pump();
  }

  #send(segment: Segment): void {
    const { wire, agenda, options } = this.#options;
    const leavesAtMs = wire.send(segment.bytes.byteLength + headerBytes, performance.now());
    const isLost = this.#random.next() < this.#loss;
    if (isLost) {
      agenda.at(leavesAtMs + options.roundTripMs, () => this.#lost(segment));
      return;
    }
    agenda.at(leavesAtMs + options.roundTripMs / 2, () => this.#arrive(segment));
    agenda.at(leavesAtMs + options.roundTripMs, () => this.#acknowledged());
  }

  #arrive({ bytes, order }: Segment): void {
    this.#early.set(order, bytes);
    for (;;) {
      const next = this.#early.get(this.#nextOrder);
      if (next === undefined) return;
      this.#early.delete(this.#nextOrder);
      this.#nextOrder += 1;
      this.#options.sink.write(next);
    }
  }

  #acknowledged(): void {
    this.#inFlight -= 1;
    this.#window += this.#window < this.#threshold ? 1 : 1 / this.#window;
    this.#pump();
  }

  #lost(segment: Segment): void {
    const now = performance.now();
    if (now - this.#halvedAtMs > this.#options.options.roundTripMs) {
      this.#window = Math.max(2, this.#window / 2);
      this.#threshold = this.#window;
      this.#halvedAtMs = now;
    }
    this.#send(segment);
  }
}

/** A wire carries one segment after the other. */
interface Wire {
  /** When so many bytes have left. */
  send(bytes: number, nowMs: number): number;
  backlogMs(nowMs: number): number;
}

function createWire({ bitsPerSecond }: SlowLinkOptions): Wire {
  let freeAtMs = 0;
  return {
    send: (bytes, nowMs) => {
      freeAtMs = Math.max(freeAtMs, nowMs) + (8000 * bytes) / bitsPerSecond;
      return freeAtMs;
    },
    backlogMs: (nowMs) => Math.max(0, freeAtMs - nowMs),
  };
}

/** What is to happen when. */
interface Agenda {
  at(timeMs: number, action: () => void): void;
}

/** Actions in the order of their times, a timer for the next of them. */
function createAgenda(): Agenda {
  const actions: { readonly timeMs: number; readonly action: () => void }[] = [];
  let timer: NodeJS.Timeout | undefined;
  const run = (): void => {
    timer = undefined;
    for (;;) {
      const next = actions[0];
      if (next === undefined) return;
      const waitMs = next.timeMs - performance.now();
      if (waitMs > 0) {
        timer = setTimeout(run, waitMs);
        timer.unref();
        return;
      }
      actions.shift();
      next.action();
    }
  };
  return {
    at: (timeMs, action) => {
      // Nearly always the last.
      let i = actions.length;
      while (i > 0 && (actions[i - 1]?.timeMs ?? 0) > timeMs) i -= 1;
      actions.splice(i, 0, { timeMs, action });
      if (i > 0 && timer !== undefined) return;
      clearTimeout(timer);
      timer = setTimeout(run, Math.max(0, timeMs - performance.now()));
    },
  };
}
