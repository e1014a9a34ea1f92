// The seam between what is said and how it travels: bytes over topics, at least once. What MQTT 3.1.1
// with clean sessions gives, and no more: PUBACK does not mean that the other end has the message
// (broker/delivery.ts sees to that).
import type { TrifoldError } from "../../runtime/index.ts";
import type { TrafficMeter } from "./traffic.ts";

/** Bytes over topics. Reconnects by itself; implemented by `connectMqtt` and `createMemoryHub`. */
export interface Transport {
  readonly clientId: string;
  readonly connected: boolean;
  /** Number of the last connection, the one its will was made with. */
  readonly connection: number;
  /** What this client sent and received since it was made. */
  readonly traffic: TrafficMeter;
  /**
   * Resolves at PUBACK (QoS 1, the default) or once written (QoS 0). While offline a QoS 1 message waits; it may
   * arrive twice when the connection drops before its PUBACK. Rejects with the signal's reason, with
   * `BROKER_OVERLOADED` when too many wait, with `BROKER_UNREACHABLE` for QoS 0 while offline, with
   * `LINK_CLOSED` after `close`.
   */
  publish(topic: string, bytes: Uint8Array, options?: PublishOptions): Promise<void>;
  /**
   * Calls `handler` for each message that matches `filter`, retained ones first, and again after each
   * reconnect. Resolves once the broker granted it; rejects with `BROKER_SUBSCRIPTION_REFUSED`.
   */
  subscribe(filter: string, handler: MessageHandler): Promise<Unsubscribe>;
  /** What was published and is not acknowledged yet. */
  queue(): QueueSize;
  /** After each connection, once every subscription is granted again. */
  onConnected(callback: () => void): Unsubscribe;
  onDisconnected(callback: () => void): Unsubscribe;
  /** Once: after `close` (no reason), or when going on is pointless, such as credentials withdrawn. */
  onClosed(callback: (reason: TrifoldError | undefined) => void): Unsubscribe;
  /** Ends the connection. The broker discards the last will, unless `will` is "publish". Safe to call twice. */
  close(options?: CloseOptions): Promise<void>;
}

/** How much waits. */
export interface QueueSize {
  readonly messages: number;
  readonly bytes: number;
}

/** How a message is published. */
export interface PublishOptions {
  /** 1 unless told. */
  readonly qos?: 0 | 1;
  /** Whether the broker keeps it for later subscribers. */
  readonly retain?: boolean;
  readonly signal?: AbortSignal;
}

/** How a transport ends. */
export interface CloseOptions {
  readonly will?: "discard" | "publish";
}

/** A message as it arrived. */
export interface TransportMessage {
  readonly topic: string;
  readonly bytes: Uint8Array;
  /** Whether the broker had kept it since before this subscription. */
  readonly retained: boolean;
}

/** Takes a message; must not throw. */
export type MessageHandler = (message: TransportMessage) => void;

/** Undoes a subscription or removes a listener; safe to call twice. */
export type Unsubscribe = () => void;

/** What the broker publishes, retained, when the connection is lost. */
export interface LastWill {
  readonly topic: string;
  readonly bytes: Uint8Array;
}

/** Makes the will of a client's `connection`-th connection, from 1. */
export type WillOf = (connection: number) => LastWill;

/** Takes one line for the operator. */
export type Log = (message: string) => void;
