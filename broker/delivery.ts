// Whole messages between two peers, at least once, over a pair of topics. PUBACK only says that the broker has
// a frame; here the other end says what it has. It knows nothing of what messages mean.
//
// After any interruption:
//   1. whoever (re)connects or starts says hello on its outbound topic;
//   2. a peer that hears hello, and whoever said it, asks for the state of each message it has under way;
//   3. the answer names the units that are there, and only the others are sent again;
//   4. a peer with a new instance has forgotten every message, and may have kept bodies: `onPeerChanged` lets the caller
//      start over.
import { randomBytes } from "node:crypto";
import { type Bodies, createBodies, forgetOldest, type PieceStore } from "./bodies.ts";
import { createAssembler } from "./codec/assembler.ts";
import type { Body } from "./codec/body.ts";
import type { BodyReference } from "./codec/envelope.ts";
import {
  type ChunkFrame,
  chunkOverheadBytes,
  decodeFrame,
  encodeFrame,
  type Frame,
} from "./codec/frames.ts";
import type { Intake } from "./intake.ts";
import { createOutflow, type OutflowOptions, type Sending } from "./outflow.ts";
import { publishPacketBytes } from "./transport/traffic.ts";
import type { Log, Transport } from "./transport/transport.ts";
import { createWindow, type FlightWindow, type WindowOptions } from "./window.ts";

/** How two peers are joined. */
export interface DeliveryOptions
  extends Pick<OutflowOptions, "silence">,
    Pick<WindowOptions, "clock" | "fixed"> {
  readonly transport: Transport;
  /** Topic the peer publishes to, and topic it reads. */
  readonly inbound: string;
  readonly outbound: string;
  readonly maxMessageBytes: number;
  /** Largest packet that the broker passes on; may change. */
  readonly maxPacketBytes: () => number;
  /** Keeps what has come of bodies over a restart of this end. */
  readonly pieces?: PieceStore | undefined;
  /** Room that bodies of all peers share; as much as comes when left out. */
  readonly intake?: Intake | undefined;
  readonly onMessage: (bytes: Uint8Array, instance: string) => void;
  /** The peer is another process than before. */
  readonly onPeerChanged: () => void;
  readonly log: Log;
}

/** What went over the wire; bytes of whole PUBLISH packets. */
export interface DeliveryCounters {
  readonly sentBytes: number;
  readonly receivedBytes: number;
  /** Of those sent, bytes of chunks sent before. */
  readonly repeatedBytes: number;
  /** Frames that were malformed, too large or of a process that is gone. */
  readonly refusedFrames: number;
}

/** Whole messages to and from one peer. */
export interface Delivery {
  /** 16 hexadecimal digits, new for each delivery. */
  readonly instance: string;
  /** The peer's, once it has been heard. */
  readonly peerInstance: string | undefined;
  send(bytes: Uint8Array): Sending;
  /** Sends a body that a message speaks of; `mayBeThere` when a former process of this end may have sent part of it. */
  sendBody(body: Body, options: { readonly mayBeThere: boolean }): Sending;
  /** The body that a message speaks of, once it is here; see `Bodies`. */
  takeBody(reference: BodyReference, signal: AbortSignal): Promise<Body>;
  releaseBody(reference: BodyReference): void;
  /** Bytes that the peer does not have yet. */
  waitingBytes(): number;
  counters(): DeliveryCounters;
  close(): void;
}

/** Subscribes and says hello. */
export async function createDelivery(options: DeliveryOptions): Promise<Delivery> {
  const delivery = new StandingDelivery(options);
  await delivery.start();
  return delivery;
}

/** Messages a peer may have open, and finished ones that are remembered by name. */
const maxOpen = 8;
const maxRemembered = 256;

class StandingDelivery implements Delivery {
  readonly instance = randomBytes(8).toString("hex");
  peerInstance: string | undefined;
  readonly #options: DeliveryOptions;
  readonly #window: FlightWindow;
  readonly #outflow;
  readonly #assembler;
  readonly #bodies: Bodies;
  readonly #finished = new Set<string>();
  readonly #gonePeers = new Set<string>();
  readonly #stops: (() => void)[] = [];
  readonly #counters = { sentBytes: 0, receivedBytes: 0, repeatedBytes: 0, refusedFrames: 0 };
  #chunks = 0;
  #closed = false;

  constructor(options: DeliveryOptions) {
    const { silence, clock, maxMessageBytes, maxPacketBytes, outbound, fixed } = options;
    this.#options = options;
    this.#assembler = createAssembler({ maxMessageBytes, maxOpen });
    this.#bodies = createBodies({
      maxBytes: maxMessageBytes,
      store: options.pieces,
      intake: options.intake,
      report: (name) => this.#report(name, 0),
    });
    const overheadBytes = publishPacketBytes(outbound, chunkOverheadBytes, 1) + maxLengthBytes;
    this.#window = createWindow({
      clock,
      maxPieceBytes: () => maxPacketBytes() - overheadBytes,
      ...(fixed === undefined ? {} : { fixed }),
    });
    this.#outflow = createOutflow({
      instance: this.instance,
      publish: (frame, isRepeat) => this.#publish(frame, isRepeat),
      newMessageId: () => randomBytes(8).toString("hex"),
      window: this.#window,
      silence,
      clock,
    });
  }

  async start(): Promise<void> {
    const { transport, inbound } = this.#options;
    this.#stops.push(await transport.subscribe(inbound, ({ bytes }) => this.#arrived(bytes)));
    const hello = () => {
      this.#window.restart();
      this.#publish({ kind: "hello", instance: this.instance }, false);
      this.#outflow.probeAll();
    };
    this.#stops.push(transport.onConnected(hello));
    if (transport.connected) {
      hello();
    }
  }

  send(bytes: Uint8Array): Sending {
    return this.#outflow.send(bytes);
  }

  sendBody(body: Body, options: { readonly mayBeThere: boolean }): Sending {
    return this.#outflow.sendBody(body, options);
  }

  takeBody(reference: BodyReference, signal: AbortSignal): Promise<Body> {
    return this.#bodies.take(reference, signal);
  }

  releaseBody(reference: BodyReference): void {
    this.#bodies.release(reference);
  }

  waitingBytes(): number {
    return this.#outflow.waitingBytes();
  }

  counters(): DeliveryCounters {
    return { ...this.#counters };
  }

  close(): void {
    this.#closed = true;
    this.#outflow.close();
    this.#assembler.clear();
    this.#bodies.clear();
    for (const stop of this.#stops.splice(0)) {
      stop();
    }
  }

  #publish(frame: Frame, isRepeat: boolean): void {
    const { transport, outbound, log } = this.#options;
    const bytes = encodeFrame(frame);
    const packetBytes = publishPacketBytes(outbound, bytes.byteLength, 1);
    this.#counters.sentBytes += packetBytes;
    this.#counters.repeatedBytes += isRepeat ? packetBytes : 0;
    transport.publish(outbound, bytes).catch((error: Error) => {
      // Not lost: a probe finds out. After `close` nothing is.
      if (!this.#closed) {
        log(`a frame to ${outbound} waits for the next probe: ${error.message}`);
      }
    });
  }

  #arrived(bytes: Uint8Array): void {
    const { inbound, log } = this.#options;
    this.#counters.receivedBytes += publishPacketBytes(inbound, bytes.byteLength, 1);
    try {
      const frame = decodeFrame(bytes);
      if (this.#gonePeers.has(frame.instance)) {
        this.#counters.refusedFrames += 1;
        return;
      }
      this.#meet(frame.instance);
      this.#take(frame);
    } catch (error) {
      this.#counters.refusedFrames += 1;
      log(`refused a frame on ${inbound}: ${error instanceof Error ? error.message : error}`);
    }
  }

  /** Notices that the peer is another process; frames of the former may still be under way. */
  #meet(instance: string): void {
    if (this.peerInstance === instance) {
      return;
    }
    const former = this.peerInstance;
    this.peerInstance = instance;
    if (former === undefined) {
      return;
    }
    this.#gonePeers.add(former);
    forgetOldest(this.#gonePeers, maxRemembered);
    this.#assembler.clear();
    this.#bodies.forgetReports();
    this.#finished.clear();
    this.#options.onPeerChanged();
  }

  #take(frame: Frame): void {
    switch (frame.kind) {
      case "chunk":
        this.#takeChunk(frame);
        break;
      case "state":
        this.#outflow.heard(frame);
        break;
      case "probe":
        this.#report(frame.message, frame.probe);
        break;
      case "drop":
        this.#assembler.drop(frame.message);
        this.#bodies.drop(frame.message);
        break;
      case "hello":
        this.#outflow.probeAll();
        break;
    }
  }

  #takeChunk(chunk: ChunkFrame): void {
    const became = chunk.isBody ? this.#bodies.add(chunk) : this.#addToMessage(chunk);
    this.#chunks += 1;
    if (became === "new" && chunk.isBody && this.#bodies.isHeld(chunk.message)) {
      return;
    }
    // Every second one: a window of two, the smallest, never runs dry without a report under way.
    if (became !== "new" || this.#chunks % 2 === 0) {
      this.#report(chunk.message, 0);
    }
  }

  #addToMessage(chunk: ChunkFrame): "whole" | "new" | "known" {
    if (this.#finished.has(chunk.message)) {
      return "whole";
    }
    const progress = this.#assembler.add(chunk);
    if (progress.kind === "partial") {
      return progress.isNew ? "new" : "known";
    }
    this.#finished.add(chunk.message);
    forgetOldest(this.#finished, maxRemembered);
    this.#options.onMessage(progress.bytes, chunk.instance);
    return "whole";
  }

  #report(message: string, probe: number): void {
    const state = this.#finished.has(message)
      ? "whole"
      : (this.#assembler.unitsOf(message) ?? this.#bodies.stateOf(message));
    const isComplete = state === "whole";
    const units = isComplete || state === undefined ? new Uint8Array(0) : withoutZeros(state);
    const { instance } = this;
    this.#publish({ kind: "state", instance, message, isComplete, probe, units }, false);
  }
}

/** Bytes by which the length field of a packet may grow with its payload. */
const maxLengthBytes = 3;

/** Zeros at the end say nothing. */
function withoutZeros(units: Uint8Array): Uint8Array {
  let end = units.byteLength;
  while (end > 0 && units[end - 1] === 0) {
    end -= 1;
  }
  return units.subarray(0, end);
}
