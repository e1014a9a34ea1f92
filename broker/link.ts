// A link at work: own requests wait here for their replies; what comes in is read by `incoming.ts` and answered by
// `answering.ts`.
import { TrifoldError } from "../runtime/index.ts";
import { Answering } from "./answering.ts";
import { systemClock } from "./clock.ts";
import {
  defaultLimits,
  type Envelope,
  type EnvelopeHead,
  encodeParted,
  type PartedEnvelope,
} from "./codec/envelope.ts";
import { createDelivery, type Delivery } from "./delivery.ts";
import { brokerErrors } from "./errors.ts";
import { Incoming } from "./incoming.ts";
import {
  defaultMaxPacketBytes,
  type Link,
  type LinkCounters,
  type LinkOptions,
  type OutgoingRequest,
  type RequestOptions,
} from "./link-seam.ts";
import type { Sending } from "./outflow.ts";
import type { QueueSize } from "./transport/transport.ts";

/** Silence before a message's state is asked for; doubles up to the limit. */
const silence = { firstMs: 10_000, maxMs: 60_000 };

interface Waiting {
  readonly sending: Sending;
  readonly resolve: (reply: Envelope) => void;
  readonly reject: (reason: unknown) => void;
}

/** Joins `self` and `peer`. Resolves once the inbound topic is subscribed. */
export async function createLink(options: LinkOptions): Promise<Link> {
  const link = new StandingLink(options);
  await link.start();
  return link;
}

class StandingLink implements Link {
  readonly self: string;
  readonly peer: string;
  readonly #options: LinkOptions;
  readonly #waiting = new Map<number, Waiting>();
  readonly #closing = new AbortController();
  readonly #incoming: Incoming;
  readonly #answering: Answering;
  readonly #sent = { sentMessages: 0, sentMessageBytes: 0 };
  #delivery: Delivery | undefined;
  #maxPacketBytes: number;
  #stopListening = () => {};
  #requests = 0;
  #replies = 0;

  constructor(options: LinkOptions) {
    this.self = options.self;
    this.peer = options.peer;
    this.#options = options;
    this.#maxPacketBytes = options.maxPacketBytes ?? defaultMaxPacketBytes;
    this.#answering = new Answering({
      ...options,
      closing: this.#closing.signal,
      send: (request, reply) => this.#reply(request, reply),
    });
    this.#incoming = new Incoming({
      ...options,
      limits: this.#limits(),
      delivery: () => this.#open(),
      isKnown: (head) => this.#isKnown(head),
      onEnvelope: (envelope) => this.#takeEnvelope(envelope),
    });
  }

  async start(): Promise<void> {
    const { transport, inbound, outbound, log, clock, fixedWindow, pieces, intake } = this.#options;
    this.#stopListening = transport.onClosed((reason) => this.#end(reason));
    this.#delivery = await createDelivery({
      transport,
      inbound,
      outbound,
      log,
      clock: clock ?? systemClock,
      ...(fixedWindow === undefined ? {} : { fixed: fixedWindow }),
      pieces,
      intake,
      maxPacketBytes: () => this.#maxPacketBytes,
      silence,
      maxMessageBytes: this.#limits().maxBytes,
      onMessage: (bytes, instance) => {
        this.#incoming.take(bytes, instance).catch((error: Error) => {
          log(`a message of ${this.peer} could not be answered: ${error.message}`);
        });
      },
      onPeerChanged: () => this.#peerChanged(),
    });
  }

  async request(
    outgoing: OutgoingRequest,
    { signal, mayBeThere = false }: RequestOptions = {},
  ): Promise<Envelope> {
    signal?.throwIfAborted();
    this.#requests += 1;
    const sequence = this.#requests;
    const encoded = await this.#encode(outgoing, { sequence });
    signal?.throwIfAborted();
    this.#closing.signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const sending = this.#send(encoded, mayBeThere);
      const onAbort = () => settle(() => reject(signal?.reason));
      const settle = (action: () => void) => {
        this.#waiting.delete(sequence);
        signal?.removeEventListener("abort", onAbort);
        sending.cancel();
        action();
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.set(sequence, {
        sending,
        resolve: (reply) => settle(() => resolve(reply)),
        reject: (reason) => settle(() => reject(reason)),
      });
    });
  }

  limitPackets(maxPacketBytes: number): void {
    this.#maxPacketBytes = maxPacketBytes;
  }

  queue(): QueueSize {
    return { messages: this.#waiting.size, bytes: this.#delivery?.waitingBytes() ?? 0 };
  }

  counters(): LinkCounters {
    return { ...this.#sent, ...this.#incoming.counters, ...this.#open().counters() };
  }

  close(): Promise<void> {
    this.#end(undefined);
    return Promise.resolve();
  }

  #end(reason: TrifoldError | undefined): void {
    if (this.#closing.signal.aborted) {
      return;
    }
    const text = `the link with ${this.peer} was closed`;
    const why = reason ?? brokerErrors.error("LINK_CLOSED", text);
    this.#closing.abort(why);
    this.#incoming.close(why);
    this.#stopListening();
    // First, so that what is given up here is not withdrawn there: the next process may go on with it.
    this.#delivery?.close();
    for (const waiting of [...this.#waiting.values()]) {
      waiting.reject(why);
    }
    this.#answering.clear();
  }

  #open(): Delivery {
    if (this.#delivery === undefined) {
      throw brokerErrors.error("LINK_CLOSED", `the link with ${this.peer} is not open`);
    }
    return this.#delivery;
  }

  #limits() {
    return { maxBytes: this.#options.maxMessageBytes ?? defaultLimits.maxBytes };
  }

  #encode(
    outgoing: OutgoingRequest,
    rest: Pick<Envelope, "sequence" | "replyTo" | "error">,
  ): Promise<PartedEnvelope> {
    const { federation, self: sender } = this.#options;
    const { instance } = this.#open();
    const defaults = { task: "", round: 0, attempt: 0, lane: 0, fields: {} };
    const bodies = { tensors: new Map(), blobs: new Map() };
    const envelope = { ...defaults, ...bodies, ...outgoing, ...rest, federation, sender, instance };
    return encodeParted(envelope, this.#limits());
  }

  #send({ message, body }: PartedEnvelope, mayBeThere: boolean): Sending {
    this.#sent.sentMessages += 1;
    this.#sent.sentMessageBytes += message.byteLength + (body?.bytes.byteLength ?? 0);
    const delivery = this.#open();
    // The message first: the other end learns what the body is for.
    const first = delivery.send(message);
    return body === undefined ? first : together([first, delivery.sendBody(body, { mayBeThere })]);
  }

  /** Requests go to the new process; what the former one asked needs no answer. */
  #peerChanged(): void {
    this.#answering.clear();
    this.#incoming.peerChanged();
    for (const { sending } of this.#waiting.values()) {
      sending.restart();
    }
  }

  #isKnown({ sequence, replyTo }: EnvelopeHead): boolean {
    return replyTo === undefined
      ? this.#answering.isRepeat(sequence)
      : this.#waitingFor(replyTo) === undefined;
  }

  async #takeEnvelope(envelope: Envelope): Promise<void> {
    if (this.#closing.signal.aborted) {
      return;
    }
    if (envelope.replyTo !== undefined) {
      this.#takeReply(envelope, envelope.replyTo);
    } else if (!(await this.#answering.take(envelope))) {
      this.#incoming.refuse(`${this.peer} does not take its answers`);
    }
  }

  #waitingFor({ instance, sequence }: NonNullable<Envelope["replyTo"]>): Waiting | undefined {
    return instance === this.#open().instance ? this.#waiting.get(sequence) : undefined;
  }

  #takeReply(reply: Envelope, replyTo: NonNullable<Envelope["replyTo"]>): void {
    const waiting = this.#waitingFor(replyTo);
    if (reply.error === undefined) {
      waiting?.resolve(reply);
      return;
    }
    const { code, message, hint } = reply.error;
    waiting?.reject(new TrifoldError(code, message, hint === undefined ? {} : { hint }));
  }

  async #reply(
    request: Envelope,
    reply: Omit<OutgoingRequest, "task"> & Pick<Envelope, "error">,
  ): Promise<Sending | undefined> {
    this.#replies += 1;
    const { task, round, attempt, lane, instance, sequence } = request;
    const { error, ...content } = reply;
    const outgoing = { task, round, attempt, lane, ...content };
    const replyTo = { instance, sequence };
    const failed = error === undefined ? {} : { error };
    const encoded = await this.#encode(outgoing, { sequence: this.#replies, replyTo, ...failed });
    const isSameProcess = this.#open().peerInstance === instance;
    return isSameProcess && !this.#closing.signal.aborted ? this.#send(encoded, false) : undefined;
  }
}

/** A message and its body as one. */
function together(sendings: readonly Sending[]): Sending {
  return {
    get isDelivered() {
      return sendings.every((one) => one.isDelivered);
    },
    restart: () => {
      for (const one of sendings) {
        one.restart();
      }
    },
    cancel: () => {
      for (const one of sendings) {
        one.cancel();
      }
    },
  };
}
