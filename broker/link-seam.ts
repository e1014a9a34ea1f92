// The seam of requests and replies between two peers. A request is processed once by each process of the peer, whatever the
// network does; after the peer restarts it is sent to the new process.
import type { PieceStore } from "./bodies.ts";
import type { Clock } from "./clock.ts";
import type { Envelope } from "./codec/envelope.ts";
import type { DeliveryCounters } from "./delivery.ts";
import type { Intake } from "./intake.ts";
import { topicsOf } from "./topics.ts";
import type { Log, QueueSize, Transport } from "./transport/transport.ts";
import type { WindowOptions } from "./window.ts";

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
  /** A window of that size instead of one that follows the link, for tests. */
  readonly fixedWindow?: WindowOptions["fixed"];
  /** 64 MiB unless told. */
  readonly maxMessageBytes?: number;
  /** Largest packet that the broker passes on; `defaultMaxPacketBytes` unless told. */
  readonly maxPacketBytes?: number;
  /** Keeps what has come of large messages over a restart of this end. */
  readonly pieces?: PieceStore;
  /** Room that large messages of all links share; as much as comes when left out. */
  readonly intake?: Intake;
}

/** The least that the brokers in use allow: AWS IoT Core's quota for a message. */
export const defaultMaxPacketBytes = 128 * 1024;

/** How a request is made. */
export interface RequestOptions {
  readonly signal?: AbortSignal;
  /** A former process of this end may have sent part of it: what is there is asked for first. */
  readonly mayBeThere?: boolean;
}

/** Requests and replies with one peer. */
export interface Link {
  readonly self: string;
  readonly peer: string;
  /**
   * Resolves with the peer's reply. Rejects with the peer's error (its code and hint), with the signal's reason, with
   * `LINK_CLOSED`, or with `ENVELOPE_INVALID` or `ENVELOPE_TOO_LARGE` when it cannot be sent. Waits as long as it takes.
   */
  request(outgoing: OutgoingRequest, options?: RequestOptions): Promise<Envelope>;
  /** From now on no packet is larger, whatever `maxPacketBytes` was. */
  limitPackets(maxPacketBytes: number): void;
  /** Requests without an answer, and bytes that the peer does not have yet. */
  queue(): QueueSize;
  counters(): LinkCounters;
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
