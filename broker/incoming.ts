// What comes in from one peer: messages taken apart, their bodies waited for, and whatever is not the peer's own refused.
import { setMaxListeners } from "node:events";
import {
  decodeEnvelope,
  type Envelope,
  type EnvelopeHead,
  type EnvelopeLimits,
  readHead,
} from "./codec/envelope.ts";
import type { Delivery } from "./delivery.ts";
import type { LinkOptions } from "./link-seam.ts";

/** What the peer's messages are read with. */
export interface IncomingOptions
  extends Pick<LinkOptions, "federation" | "peer" | "inbound" | "log"> {
  readonly limits: EnvelopeLimits;
  readonly delivery: () => Delivery;
  /** Whether a message came before, or answers nothing: its body need not be waited for. */
  readonly isKnown: (head: EnvelopeHead) => boolean;
  /** Resolves once a restart of this end need not find the message's body. */
  readonly onEnvelope: (envelope: Envelope) => Promise<void>;
}

/** Messages of one peer whose bodies are awaited; each may hold a header of 64 KiB. */
const maxReading = 128;

/** Reads one peer. */
export class Incoming {
  readonly counters = {
    receivedMessages: 0,
    receivedMessageBytes: 0,
    repeatedRequests: 0,
    strayReplies: 0,
    refusedEnvelopes: 0,
  };
  readonly #options: IncomingOptions;
  /** Messages whose bodies are awaited: requests and replies are numbered apart. */
  readonly #reading = new Set<string>();
  /** Aborted when the peer is another process, or the link is closed. */
  #same = createSame();

  constructor(options: IncomingOptions) {
    this.#options = options;
  }

  /** The peer is another process: what its predecessor began is not finished. */
  peerChanged(): void {
    this.#same.abort(new Error(`${this.#options.peer} is another process`));
    this.#same = createSame();
  }

  close(reason: Error): void {
    this.#same.abort(reason);
  }

  async take(bytes: Uint8Array, instance: string): Promise<void> {
    this.counters.receivedMessages += 1;
    this.counters.receivedMessageBytes += bytes.byteLength;
    const head = this.#readHead(bytes);
    if (head === undefined || this.#isRepeat(head)) {
      return;
    }
    if (this.#reading.size >= maxReading) {
      this.refuse(`${maxReading} messages wait for their bodies already`);
      return;
    }
    const name = nameOf(head);
    this.#reading.add(name);
    const envelope = await this.#read(bytes, head, instance);
    this.#reading.delete(name);
    if (envelope === undefined) {
      return;
    }
    await this.#options.onEnvelope(envelope);
    if (head.body !== undefined) {
      this.#options.delivery().releaseBody(head.body);
    }
  }

  refuse(why: string): void {
    this.counters.refusedEnvelopes += 1;
    this.#options.log(`refused an envelope on ${this.#options.inbound}: ${why}`);
  }

  #readHead(bytes: Uint8Array): EnvelopeHead | undefined {
    try {
      return readHead(bytes, this.#options.limits);
    } catch (error) {
      this.refuse(textOf(error));
      return undefined;
    }
  }

  #isRepeat(head: EnvelopeHead): boolean {
    const isRepeat = this.#options.isKnown(head) || this.#reading.has(nameOf(head));
    if (isRepeat) {
      this.counters[head.replyTo === undefined ? "repeatedRequests" : "strayReplies"] += 1;
    }
    return isRepeat;
  }

  async #read(
    bytes: Uint8Array,
    { body }: EnvelopeHead,
    instance: string,
  ): Promise<Envelope | undefined> {
    const { federation, peer, limits, delivery } = this.#options;
    const { signal } = this.#same;
    try {
      const apart = body === undefined ? undefined : await delivery().takeBody(body, signal);
      this.counters.receivedMessageBytes += apart?.bytes.byteLength ?? 0;
      const envelope = await decodeEnvelope(bytes, limits, apart);
      signal.throwIfAborted();
      const { sender } = envelope;
      const isOwn = sender === peer && envelope.federation === federation;
      if (isOwn && envelope.instance === instance) {
        return envelope;
      }
      this.refuse(`it says it is from ${sender} in ${envelope.federation}`);
    } catch (error) {
      if (!signal.aborted) {
        this.refuse(textOf(error));
      }
    }
    return undefined;
  }
}

/** Every message that waits for its body listens to it. */
function createSame(): AbortController {
  const same = new AbortController();
  setMaxListeners(maxReading, same.signal);
  return same;
}

function nameOf({ replyTo, sequence }: EnvelopeHead): string {
  return `${replyTo === undefined ? "request" : "reply"} ${sequence}`;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
