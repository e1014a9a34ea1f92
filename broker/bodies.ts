// Bodies on their way in. A message speaks of its body by hash; the body comes apart, may have begun to come for a process
// of the sender that is gone, and may be here in part from before this process began.
import { type Assembler, createAssembler, type Piece } from "./codec/assembler.ts";
import { type Body, createBody } from "./codec/body.ts";
import type { BodyReference } from "./codec/envelope.ts";
import { brokerErrors } from "./errors.ts";
import type { Intake, Ticket } from "./intake.ts";
import { bodyName } from "./outflow.ts";

/** Keeps the pieces of bodies over a restart of this end. What it loses is sent again: hashes tell. */
export interface PieceStore {
  /** What is kept of a body; empty when nothing is. */
  read(name: string): readonly Piece[];
  keep(piece: Piece): void;
  forget(name: string): void;
}

/** How bodies are held. */
export interface BodiesOptions {
  readonly maxBytes: number;
  readonly store: PieceStore | undefined;
  /** Room that bodies of all peers share. */
  readonly intake: Intake | undefined;
  /** Tells the sender what is here of a body. */
  readonly report: (name: string) => void;
}

/** Bodies of one peer that are here in part, or whole and not taken yet. */
export interface Bodies {
  add(piece: Piece): "whole" | "new" | "known";
  /** Whether the body has to wait for room: its sender is not told what is here, so that it stops. */
  isHeld(name: string): boolean;
  /** Which units are here, "whole", or undefined when nothing is. */
  stateOf(name: string): Uint8Array | "whole" | undefined;
  /** Resolves with the body once it is here. Rejects with the signal's reason, or `ENVELOPE_INVALID` when what came is another. */
  take(reference: BodyReference, signal: AbortSignal): Promise<Body>;
  /** What was taken is done with: a restart need not find it. */
  release(reference: BodyReference): void;
  drop(name: string): void;
  /** The peer is another process: it does not know what its predecessor was told. */
  forgetReports(): void;
  clear(): void;
}

/** Bodies in part, and whole ones that nobody takes, at once. */
const maxOpen = 8;
const maxRemembered = 256;

/** Times that a body may turn out to be another. */
const maxTries = 3;

/** Smaller ones are cheaper to send again than to write to a board's disk. */
const worthKeepingBytes = 128 * 1024;

/** No bodies yet. */
export function createBodies(options: BodiesOptions): Bodies {
  return new StandingBodies(options);
}

class StandingBodies implements Bodies {
  readonly #options: BodiesOptions;
  readonly #assembler: Assembler;
  readonly #whole = new Map<string, Uint8Array>();
  /** Reported as whole and no longer here. */
  readonly #used = new Set<string>();
  /** By name; several messages may speak of one body. */
  readonly #waiting = new Map<string, Set<Waiter>>();
  /** Looked up in the store since this process began. */
  readonly #recalled = new Set<string>();
  readonly #tickets = new Map<string, Ticket>();

  constructor(options: BodiesOptions) {
    this.#options = options;
    const limits = { maxMessageBytes: options.maxBytes, maxOpen };
    this.#assembler = createAssembler(limits, (name) => this.#forget(name));
  }

  add(piece: Piece): "whole" | "new" | "known" {
    const name = piece.message;
    this.#recall(name);
    if (this.#whole.has(name) || this.#used.has(name)) {
      return "whole";
    }
    const progress = this.#assembler.add(piece);
    this.#askForRoom(piece);
    if (progress.kind === "partial") {
      if (progress.isNew && piece.totalBytes >= worthKeepingBytes) {
        this.#options.store?.keep(piece);
      }
      return progress.isNew ? "new" : "known";
    }
    if (piece.totalBytes >= worthKeepingBytes) {
      this.#options.store?.keep(piece);
    }
    this.#isHere(name, progress.bytes);
    return "whole";
  }

  isHeld(name: string): boolean {
    return this.#tickets.get(name)?.isGranted === false;
  }

  stateOf(name: string): Uint8Array | "whole" | undefined {
    this.#recall(name);
    const isWhole = this.#whole.has(name) || this.#used.has(name);
    return isWhole ? "whole" : this.#assembler.unitsOf(name);
  }

  async take(reference: BodyReference, signal: AbortSignal): Promise<Body> {
    const name = bodyName(reference.sha256);
    this.#recall(name);
    for (let tries = 0; tries < maxTries; tries += 1) {
      const bytes = this.#whole.get(name) ?? (await this.#arrival(name, signal));
      this.#whole.delete(name);
      this.#used.add(name);
      forgetOldest(this.#used, maxRemembered);
      const body = createBody(bytes);
      if (Buffer.compare(body.sha256, reference.sha256) === 0) {
        return body;
      }
      // A store that a power cut left torn, or a peer that says one thing and sends another.
      this.#forget(name);
    }
    const text = `the body of a message is not the one of sha256 ${name}... that it speaks of`;
    throw brokerErrors.error("ENVELOPE_INVALID", text);
  }

  release({ sha256 }: BodyReference): void {
    this.#forget(bodyName(sha256));
  }

  drop(name: string): void {
    this.#assembler.drop(name);
    this.#whole.delete(name);
    this.#forget(name);
    for (const { withdrawn } of this.#waiting.get(name) ?? []) {
      withdrawn();
    }
    this.#waiting.delete(name);
  }

  forgetReports(): void {
    this.#used.clear();
  }

  clear(): void {
    this.#assembler.clear();
    this.#whole.clear();
    for (const ticket of this.#tickets.values()) {
      ticket.leave();
    }
    this.#tickets.clear();
  }

  #forget(name: string): void {
    this.#options.store?.forget(name);
    this.#tickets.get(name)?.leave();
    this.#tickets.delete(name);
  }

  #askForRoom({ message: name, totalBytes }: Piece): void {
    const { intake, report } = this.#options;
    const ticket = this.#tickets.get(name);
    ticket?.touch();
    if (ticket === undefined && intake !== undefined) {
      this.#tickets.set(
        name,
        intake.enter(totalBytes, () => report(name)),
      );
    }
  }

  #arrival(name: string, signal: AbortSignal): Promise<Uint8Array> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const waiting = this.#waiting.get(name) ?? new Set();
      this.#waiting.set(name, waiting);
      const waiter = {
        arrived: (bytes: Uint8Array) => {
          signal.removeEventListener("abort", onAbort);
          resolve(bytes);
        },
        withdrawn: () => {
          signal.removeEventListener("abort", onAbort);
          reject(brokerErrors.error("ENVELOPE_INVALID", "the peer withdrew the message"));
        },
      };
      const onAbort = () => {
        waiting.delete(waiter);
        reject(signal.reason);
      };
      waiting.add(waiter);
      signal.addEventListener("abort", onAbort, { once: true });
      if (this.#used.delete(name)) {
        this.#options.report(name);
      }
    });
  }

  #isHere(name: string, bytes: Uint8Array): void {
    this.#whole.set(name, bytes);
    for (const { arrived } of this.#waiting.get(name) ?? []) {
      arrived(bytes);
    }
    this.#waiting.delete(name);
    this.#makeRoom();
  }

  /** Whole bodies that nobody takes go, the oldest first: whoever speaks of one later gets it sent again. */
  #makeRoom(): void {
    const bytes = () => [...this.#whole.values()].reduce((sum, one) => sum + one.byteLength, 0);
    const isTooMuch = () => this.#whole.size > maxOpen || bytes() > 2 * this.#options.maxBytes;
    while (this.#whole.size > 1 && isTooMuch()) {
      const [oldest = ""] = this.#whole.keys();
      this.#whole.delete(oldest);
      this.#used.add(oldest);
      this.#forget(oldest);
    }
  }

  /** What an earlier process of this end received, once. */
  #recall(name: string): void {
    if (this.#options.store === undefined || this.#recalled.has(name)) {
      return;
    }
    this.#recalled.add(name);
    forgetOldest(this.#recalled, maxRemembered);
    for (const piece of this.#options.store.read(name)) {
      const progress = this.#assembler.add(piece);
      if (progress.kind === "complete") {
        this.#isHere(name, progress.bytes);
        return;
      }
    }
  }
}

/** A message that waits for its body. */
interface Waiter {
  readonly arrived: (bytes: Uint8Array) => void;
  readonly withdrawn: () => void;
}

/** Keeps the newest names. */
export function forgetOldest(names: Set<string>, limit: number): void {
  const [oldest] = names;
  if (names.size > limit && oldest !== undefined) {
    names.delete(oldest);
  }
}
