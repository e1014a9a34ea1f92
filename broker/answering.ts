// The requests of one peer: each is processed once by this process, a repeat gets the answer that there is, and a failure
// crosses the wire as code, text and hint.
import { TrifoldError } from "../runtime/index.ts";
import type { Envelope, WireError } from "./codec/envelope.ts";
import { brokerErrors } from "./errors.ts";
import { createHandled } from "./handled.ts";
import type { LinkOptions, Reply } from "./link-seam.ts";
import type { Sending } from "./outflow.ts";

/** What requests are answered with. */
export interface AnsweringOptions extends Pick<LinkOptions, "self" | "peer" | "onRequest" | "log"> {
  /** Aborted when the link is closed. */
  readonly closing: AbortSignal;
  /** Sends a reply; undefined when the request's process is gone. */
  readonly send: (request: Envelope, reply: Reply & ErrorReply) => Promise<Sending | undefined>;
}

/** In place of an answer. */
export interface ErrorReply {
  readonly error?: WireError;
}

/** Answers kept for repeats. */
const maxAnswers = 4;

/** Requests of one peer that are in progress or whose answer it has not taken; beyond twice that it is not answered. */
const maxPending = 64;

/** Most of a text that crosses the wire. */
const maxTextLength = 4000;

/** Answers one peer. */
export class Answering {
  readonly #options: AnsweringOptions;
  readonly #handled = createHandled(maxAnswers);

  constructor(options: AnsweringOptions) {
    this.#options = options;
  }

  /** Whether the request came before; one that is answered gets its answer again. */
  isRepeat(sequence: number): boolean {
    const state = this.#handled.look(sequence);
    if (state.kind === "answered") {
      state.answer.restart();
    }
    return state.kind !== "new";
  }

  /** False when the peer leaves so many answers untaken that this one is not even processed. */
  async take(request: Envelope): Promise<boolean> {
    const pending = this.#handled.pending();
    if (pending >= 2 * maxPending) {
      return false;
    }
    this.#handled.begin(request.sequence);
    const reply = await (pending >= maxPending ? this.#overload() : this.#process(request));
    const sending = await this.#send(request, reply);
    if (sending !== undefined) {
      this.#handled.answer(request.sequence, sending);
    }
    return true;
  }

  /** What the former process of the peer asked needs no answer. */
  clear(): void {
    this.#handled.clear();
  }

  /** A reply that cannot travel is an error that can. */
  async #send(request: Envelope, reply: Reply & ErrorReply): Promise<Sending | undefined> {
    try {
      return await this.#options.send(request, reply);
    } catch (error) {
      return this.#options.send(request, this.#failure(request, error));
    }
  }

  async #process(request: Envelope): Promise<Reply & ErrorReply> {
    const { onRequest, self, closing } = this.#options;
    try {
      if (onRequest === undefined) {
        throw brokerErrors.error("PEER_FAILED", `${self} takes no requests`);
      }
      return await onRequest(request, closing);
    } catch (error) {
      return this.#failure(request, error);
    }
  }

  #overload(): Promise<Reply & ErrorReply> {
    const { self, peer } = this.#options;
    const message = `${self} has ${maxPending} unanswered requests of ${peer}`;
    return Promise.resolve({ kind: "error", error: { code: "LINK_OVERLOADED", message } });
  }

  #failure(request: Envelope, error: unknown): Reply & ErrorReply {
    const { self, peer, log } = this.#options;
    if (error instanceof TrifoldError) {
      const { code, message, hint } = error;
      const short = { code, message: message.slice(0, maxTextLength) };
      const hinted = hint === undefined ? {} : { hint: hint.slice(0, maxTextLength) };
      return { kind: "error", error: { ...short, ...hinted } };
    }
    // The text may hold anything, so it stays here.
    const detail = error instanceof Error ? error.stack : String(error);
    log(`a "${request.kind}" request of ${peer} failed: ${detail}`);
    const message = `${self} could not process a "${request.kind}" request`;
    const hint = `look into the log of ${self}`;
    return { kind: "error", error: { code: "PEER_FAILED", message, hint } };
  }
}
