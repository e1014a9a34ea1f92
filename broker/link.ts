// Requests and replies between two peers. A request is processed once by each process of the peer, whatever
// the network does; after the peer restarts it is sent to the new process.
import { TrifoldError } from "../runtime/index.ts";
import { type Clock, systemClock } from "./clock.ts";
import {
  decodeEnvelope,
  defaultLimits,
  type Envelope,
  encodeEnvelope,
  type WireError,
} from "./codec/envelope.ts";
import { createDelivery, type Delivery, type DeliveryCounters } from "./delivery.ts";
import { brokerErrors } from "./errors.ts";
import { createHandled } from "./handled.ts";
import type { Sending } from "./outflow.ts";
import { topicsOf } from "./topics.ts";
import type { Log, QueueSize, Transport } from "./transport/transport.ts";

/** What is sent; the link adds who, to whom and the sequence. */
export interface OutgoingRequest
  extends Partial<Pick<Envelope, "task" | "round" | "attempt" | "lane">> {
  readonly kind: string;
  readonly fields?: Envelope["fields"];
  readonly tensors?: Envelope["tensors"];
  readonly blobs?: Envelope["blobs"];
}

/** What answers a request; round, attempt and lane are the request's. */
export type Reply = Pick<OutgoingRequest, "kind" | "fields" | "tensors" | "blobs">;

/** Answers a request. A `TrifoldError` it throws reaches the peer with code, text and hint; of anything else only that it failed. */
export type RequestHandler = (request: Envelope, signal: AbortSignal) => Promise<Reply>;

/** How to join two peers. */
export interface LinkOptions {
  readonly transport: Transport;
  readonly federation: string;
  /** Own id and the peer's, as the envelopes carry them. */
  readonly self: string;
  readonly peer: string;
  /** Topic the peer publishes to, and topic it reads. */
  readonly inbound: string;
  readonly outbound: string;
  /** Without one, requests are answered with `PEER_FAILED`. Aborted at `close`. */
  readonly onRequest?: RequestHandler;
  readonly log: Log;
  readonly clock?: Clock;
  /** 32 KiB unless told; 16 KiB with a window of 2 on slow links. */
  readonly chunkBytes?: number;
  /** 4 unless told. */
  readonly window?: number;
  /** 64 MiB unless told. */
  readonly maxMessageBytes?: number;
}

/** Requests and replies with one peer. */
export interface Link {
  readonly self: string;
  readonly peer: string;
  /**
   * Resolves with the peer's reply. Rejects with the peer's error (its code and hint), with the signal's reason, with
   * `LINK_CLOSED`, or with `ENVELOPE_INVALID` or `ENVELOPE_TOO_LARGE` when it cannot be sent. Waits as long as it takes.
   */
  request(
    outgoing: OutgoingRequest,
    options?: { readonly signal?: AbortSignal },
  ): Promise<Envelope>;
  counters(): LinkCounters;
  /** Requests without an answer yet, and their bytes. */
  queue(): QueueSize;
  /** Rejects what waits. Safe to call twice. */
  close(): Promise<void>;
}

/** What passed, and what was not what it should be. */
export interface LinkCounters extends DeliveryCounters {
  /** Envelopes sent and received, each once, and their bytes before framing. */
  readonly sentMessages: number;
  readonly sentMessageBytes: number;
  readonly receivedMessages: number;
  readonly receivedMessageBytes: number;
  /** Requests that came again. */
  readonly repeatedRequests: number;
  /** Replies that nobody waits for. */
  readonly strayReplies: number;
  /** Envelopes that were damaged or not the peer's own. */
  readonly refusedEnvelopes: number;
}

/** Joins `self` and `peer`. Resolves once the inbound topic is subscribed. */
export async function createLink(options: LinkOptions): Promise<Link> {
  const link = new StandingLink(options);
  await link.start();
  return link;
}

/** The device's end of its link with the coordinator. */
export function deviceLinkTopics(
  federation: string,
  deviceId: string,
): Pick<LinkOptions, "inbound" | "outbound"> {
  const topics = topicsOf(federation);
  return { inbound: topics.device(deviceId, "down"), outbound: topics.device(deviceId, "up") };
}

/** The coordinator's end of its link with a device. */
export function coordinatorLinkTopics(
  federation: string,
  deviceId: string,
): Pick<LinkOptions, "inbound" | "outbound"> {
  const { inbound, outbound } = deviceLinkTopics(federation, deviceId);
  return { inbound: outbound, outbound: inbound };
}

/** Answers kept for repeats. */
const maxAnswers = 4;

/** Requests of one peer that are in progress or whose answer it has not taken; beyond twice that it is not answered. */
const maxPending = 64;

/** Silence before a message's state is asked for; doubles up to the limit. */
const silence = { firstMs: 10_000, maxMs: 60_000 };

interface Waiting {
  readonly bytes: number;
  readonly sending: Sending;
  readonly resolve: (reply: Envelope) => void;
  readonly reject: (reason: unknown) => void;
}

class StandingLink implements Link {
  readonly self: string;
  readonly peer: string;
  readonly #options: LinkOptions;
  readonly #waiting = new Map<number, Waiting>();
  readonly #handled = createHandled(maxAnswers);
  readonly #closing = new AbortController();
  readonly #counters = {
    sentMessages: 0,
    sentMessageBytes: 0,
    receivedMessages: 0,
    receivedMessageBytes: 0,
    repeatedRequests: 0,
    strayReplies: 0,
    refusedEnvelopes: 0,
  };
  #delivery: Delivery | undefined;
  #stopListening = () => {};
  #requests = 0;
  #replies = 0;

  constructor(options: LinkOptions) {
    this.self = options.self;
    this.peer = options.peer;
    this.#options = options;
  }

  async start(): Promise<void> {
    const { transport, inbound, outbound, log } = this.#options;
    this.#stopListening = transport.onClosed((reason) => this.#end(reason));
    this.#delivery = await createDelivery({
      transport,
      inbound,
      outbound,
      log,
      clock: this.#options.clock ?? systemClock,
      chunkBytes: this.#options.chunkBytes ?? 32 * 1024,
      window: this.#options.window ?? 4,
      silence,
      maxMessageBytes: this.#limits().maxBytes,
      onMessage: (bytes, instance) => {
        this.#arrived(bytes, instance).catch((error: Error) => {
          log(`a message of ${this.peer} could not be answered: ${error.message}`);
        });
      },
      onPeerChanged: () => this.#peerChanged(),
    });
  }

  async request(
    outgoing: OutgoingRequest,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<Envelope> {
    signal?.throwIfAborted();
    this.#requests += 1;
    const sequence = this.#requests;
    const bytes = await this.#encode(outgoing, { sequence });
    signal?.throwIfAborted();
    if (this.#closing.signal.aborted) {
      throw this.#closing.signal.reason;
    }
    return new Promise((resolve, reject) => {
      const sending = this.#send(bytes);
      const onAbort = () => settle(() => reject(signal?.reason));
      const settle = (action: () => void) => {
        this.#waiting.delete(sequence);
        signal?.removeEventListener("abort", onAbort);
        sending.cancel();
        action();
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.set(sequence, {
        bytes: bytes.byteLength,
        sending,
        resolve: (reply) => settle(() => resolve(reply)),
        reject: (reason) => settle(() => reject(reason)),
      });
    });
  }

  counters(): LinkCounters {
    return { ...this.#counters, ...this.#open().counters() };
  }

  queue(): QueueSize {
    const waiting = [...this.#waiting.values()];
    const bytes = waiting.reduce((sum, one) => sum + one.bytes, 0);
    return { messages: waiting.length, bytes };
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
    this.#stopListening();
    for (const waiting of [...this.#waiting.values()]) {
      waiting.reject(why);
    }
    this.#handled.clear();
    this.#delivery?.close();
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
  ): Promise<Uint8Array> {
    const { federation, self: sender } = this.#options;
    const { instance } = this.#open();
    const defaults = { task: "", round: 0, attempt: 0, lane: 0, fields: {} };
    const bodies = { tensors: new Map(), blobs: new Map() };
    const envelope = { ...defaults, ...bodies, ...outgoing, ...rest, federation, sender, instance };
    return encodeEnvelope(envelope, this.#limits());
  }

  #send(bytes: Uint8Array): Sending {
    this.#counters.sentMessages += 1;
    this.#counters.sentMessageBytes += bytes.byteLength;
    return this.#open().send(bytes);
  }

  /** Requests go to the new process; what the former one asked needs no answer. */
  #peerChanged(): void {
    this.#handled.clear();
    for (const { sending } of this.#waiting.values()) {
      sending.restart();
    }
  }

  async #arrived(bytes: Uint8Array, instance: string): Promise<void> {
    this.#counters.receivedMessages += 1;
    this.#counters.receivedMessageBytes += bytes.byteLength;
    const envelope = await this.#read(bytes, instance);
    if (envelope === undefined || this.#closing.signal.aborted) {
      return;
    }
    if (envelope.replyTo === undefined) {
      await this.#takeRequest(envelope);
    } else {
      this.#takeReply(envelope, envelope.replyTo);
    }
  }

  async #read(bytes: Uint8Array, instance: string): Promise<Envelope | undefined> {
    const { federation, log, inbound } = this.#options;
    const envelope = await decodeEnvelope(bytes, this.#limits()).catch((error: Error) => error);
    const isOwn =
      !(envelope instanceof Error) &&
      envelope.sender === this.peer &&
      envelope.federation === federation &&
      envelope.instance === instance;
    if (isOwn) {
      return envelope;
    }
    this.#counters.refusedEnvelopes += 1;
    const why =
      envelope instanceof Error
        ? envelope.message
        : `it says it is from ${envelope.sender} in ${envelope.federation}`;
    log(`refused an envelope on ${inbound}: ${why}`);
    return undefined;
  }

  #takeReply(reply: Envelope, { instance, sequence }: NonNullable<Envelope["replyTo"]>): void {
    const isOurs = instance === this.#open().instance;
    const waiting = isOurs ? this.#waiting.get(sequence) : undefined;
    if (waiting === undefined) {
      this.#counters.strayReplies += 1;
    } else if (reply.error === undefined) {
      waiting.resolve(reply);
    } else {
      const { code, message, hint } = reply.error;
      waiting.reject(new TrifoldError(code, message, hint === undefined ? {} : { hint }));
    }
  }

  async #takeRequest(request: Envelope): Promise<void> {
    const state = this.#handled.look(request.sequence);
    if (state.kind !== "new") {
      this.#counters.repeatedRequests += 1;
      if (state.kind === "answered") {
        state.answer.restart();
      }
      return;
    }
    const pending = this.#handled.pending();
    if (pending >= 2 * maxPending) {
      this.#counters.refusedEnvelopes += 1;
      this.#options.log(`ignored a request of ${this.peer}: it does not take its answers`);
      return;
    }
    const isOverloaded = pending >= maxPending;
    this.#handled.begin(request.sequence);
    const bytes = await (isOverloaded ? this.#encodeOverload(request) : this.#process(request));
    const isSameProcess = this.#open().peerInstance === request.instance;
    if (isSameProcess && !this.#closing.signal.aborted) {
      this.#handled.answer(request.sequence, this.#send(bytes));
    }
  }

  async #process(request: Envelope): Promise<Uint8Array> {
    try {
      const { onRequest } = this.#options;
      if (onRequest === undefined) {
        throw brokerErrors.error("PEER_FAILED", `${this.self} takes no requests`);
      }
      const reply = await onRequest(request, this.#closing.signal);
      return await this.#encodeReply(request, reply);
    } catch (error) {
      return this.#encodeError(request, this.#describe(request, error));
    }
  }

  #describe(request: Envelope, error: unknown): WireError {
    if (error instanceof TrifoldError) {
      const { code, message, hint } = error;
      const short = { code, message: message.slice(0, 4000) };
      return { ...short, ...(hint === undefined ? {} : { hint: hint.slice(0, 4000) }) };
    }
    // The text may hold anything, so it stays here.
    const detail = error instanceof Error ? error.stack : String(error);
    this.#options.log(`a "${request.kind}" request of ${this.peer} failed: ${detail}`);
    const message = `${this.self} could not process a "${request.kind}" request`;
    return { code: "PEER_FAILED", message, hint: `look into the log of ${this.self}` };
  }

  #encodeOverload(request: Envelope): Promise<Uint8Array> {
    const message = `${this.self} has ${maxPending} unanswered requests of ${this.peer}`;
    return this.#encodeError(request, { code: "LINK_OVERLOADED", message });
  }

  #encodeReply(request: Envelope, reply: Reply, error?: WireError): Promise<Uint8Array> {
    this.#replies += 1;
    const { task, round, attempt, lane, instance, sequence } = request;
    const place = { task, round, attempt, lane };
    const replyTo = { instance, sequence };
    const failed = error === undefined ? {} : { error };
    return this.#encode({ ...place, ...reply }, { sequence: this.#replies, replyTo, ...failed });
  }

  #encodeError(request: Envelope, error: WireError): Promise<Uint8Array> {
    return this.#encodeReply(request, { kind: "error" }, error);
  }
}
