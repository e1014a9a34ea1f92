// What every transport does alike, whatever carries the bytes: messages wait while the connection is
// down, go out again when it dropped before their PUBACK, and subscriptions are made again.
import type { TrifoldError } from "../../runtime/index.ts";
import { brokerErrors } from "../errors.ts";
import { createOutbox, type OutgoingMessage } from "./outbox.ts";
import { createSubscriptions, type Subscription } from "./subscriptions.ts";
import { createTrafficMeter } from "./traffic.ts";
import type {
  CloseOptions,
  Log,
  MessageHandler,
  PublishOptions,
  QueueSize,
  Transport,
  TransportMessage,
  Unsubscribe,
} from "./transport.ts";

/** One living connection to a broker. Its promises stay open when it ends first. */
export interface Connection {
  /** Resolves at PUBACK, or once written for QoS 0. */
  publish(message: OutgoingMessage): Promise<void>;
  /** Whether the broker granted it. */
  subscribe(filter: string): Promise<boolean>;
  /** Resolves once the broker has forgotten it. */
  unsubscribe(filter: string): Promise<void>;
  end(will: "discard" | "publish"): Promise<void>;
}

/** A transport and the events its driver tells it of. */
export interface Session extends Transport {
  readonly closed: boolean;
  /** The `number`-th connection stands. Resolves once subscriptions are granted again. */
  opened(connection: Connection, number: number): Promise<void>;
  /** The connection is gone. */
  lost(): void;
  /** Going on is pointless. */
  failed(reason: TrifoldError): void;
  arrived(message: TransportMessage, qos: number): void;
}

/** What a session is made of. */
export interface SessionOptions {
  readonly clientId: string;
  readonly log: Log;
  /** QoS 1 messages that may wait for their PUBACK. */
  readonly maxWaiting?: number;
  /** Stops the driver's own work, such as reconnecting. */
  readonly stop: () => void;
}

/** A session without a connection yet. */
export function createSession(options: SessionOptions): Session {
  return new StandingSession(options);
}

class StandingSession implements Session {
  readonly clientId: string;
  readonly traffic = createTrafficMeter();
  connection = 0;
  readonly #options: SessionOptions;
  readonly #subscriptions = createSubscriptions();
  readonly #outbox;
  readonly #whenConnected = new Set<() => void>();
  readonly #whenDisconnected = new Set<() => void>();
  readonly #whenClosed = new Set<(reason: TrifoldError | undefined) => void>();
  /** Filters on their way out: aedes handles packets at once and would drop a subscription made meanwhile. */
  readonly #leaving = new Map<string, Promise<void>>();
  #connection: Connection | undefined;
  #ready = false;
  #closed = false;
  #ending: Promise<void> | undefined;

  constructor(options: SessionOptions) {
    this.clientId = options.clientId;
    this.#options = options;
    this.#outbox = createOutbox(options.maxWaiting ?? 4096);
  }

  get connected(): boolean {
    return this.#ready;
  }

  get closed(): boolean {
    return this.#closed;
  }

  async publish(topic: string, bytes: Uint8Array, options: PublishOptions = {}): Promise<void> {
    options.signal?.throwIfAborted();
    if (this.#closed) {
      throw closedError(`cannot publish to ${topic}`);
    }
    const qos = options.qos ?? 1;
    if (qos === 0 && !this.#ready) {
      throw brokerErrors.error("BROKER_UNREACHABLE", `offline: cannot publish to ${topic}`);
    }
    const message = { topic, bytes, qos, retain: options.retain ?? false };
    const done = this.#outbox.add(message, options.signal);
    this.#send();
    await done;
  }

  async subscribe(filter: string, handler: MessageHandler): Promise<Unsubscribe> {
    if (this.#closed) {
      throw closedError(`cannot subscribe to ${filter}`);
    }
    const subscription = this.#subscriptions.add(filter, handler);
    if (this.#connection !== undefined) {
      void this.#grant(subscription, this.#connection);
    }
    await subscription.granted;
    return () => {
      if (this.#subscriptions.remove(subscription) && this.#connection !== undefined) {
        this.#leaving.set(filter, this.#connection.unsubscribe(filter));
      }
    };
  }

  queue(): QueueSize {
    return this.#outbox.size();
  }

  onConnected(callback: () => void): Unsubscribe {
    return listen(this.#whenConnected, callback);
  }

  onDisconnected(callback: () => void): Unsubscribe {
    return listen(this.#whenDisconnected, callback);
  }

  onClosed(callback: (reason: TrifoldError | undefined) => void): Unsubscribe {
    return listen(this.#whenClosed, callback);
  }

  close(options: CloseOptions = {}): Promise<void> {
    this.#ending ??= this.#end(options.will ?? "discard", undefined);
    return this.#ending;
  }

  async opened(connection: Connection, number: number): Promise<void> {
    this.connection = number;
    this.#connection = connection;
    const subscriptions = this.#subscriptions.all();
    await Promise.all(subscriptions.map((one) => this.#grant(one, connection)));
    if (this.#connection !== connection || this.#closed) {
      return;
    }
    this.#ready = true;
    this.#send();
    call(this.#whenConnected, undefined);
  }

  lost(): void {
    const wasReady = this.#ready;
    this.#connection = undefined;
    this.#ready = false;
    this.#leaving.clear();
    this.#outbox.requeue();
    if (wasReady) {
      call(this.#whenDisconnected, undefined);
    }
  }

  failed(reason: TrifoldError): void {
    this.#ending ??= this.#end("discard", reason);
  }

  arrived(message: TransportMessage, qos: number): void {
    this.traffic.countPublish("received", message.topic, message.bytes.byteLength, qos);
    this.#subscriptions.dispatch(message);
  }

  #send(): void {
    const connection = this.#connection;
    while (connection !== undefined && this.#ready) {
      const next = this.#outbox.take();
      if (next === undefined) {
        return;
      }
      const { topic, bytes, qos } = next.message;
      this.traffic.countPublish("sent", topic, bytes.byteLength, qos);
      connection.publish(next.message).then(next.done, next.failed);
    }
  }

  async #grant(subscription: Subscription, connection: Connection): Promise<void> {
    await this.#leaving.get(subscription.filter);
    if (await connection.subscribe(subscription.filter)) {
      subscription.grant();
    } else {
      const text = `the broker refused ${this.clientId} the topic filter ${subscription.filter}`;
      this.#options.log(text);
      this.#subscriptions.remove(subscription);
      subscription.refuse(brokerErrors.error("BROKER_SUBSCRIPTION_REFUSED", text));
    }
  }

  async #end(will: "discard" | "publish", reason: TrifoldError | undefined): Promise<void> {
    const wasReady = this.#ready;
    const connection = this.#connection;
    this.#closed = true;
    this.#ready = false;
    this.#connection = undefined;
    this.#options.stop();
    const why = reason ?? closedError("the transport was closed");
    this.#outbox.rejectAll(why);
    this.#subscriptions.rejectAll(why);
    await connection?.end(will);
    if (wasReady) {
      call(this.#whenDisconnected, undefined);
    }
    call(this.#whenClosed, reason);
  }
}

function closedError(what: string): TrifoldError {
  return brokerErrors.error("LINK_CLOSED", `${what}: the connection is closed`);
}

function listen<T>(listeners: Set<T>, callback: T): Unsubscribe {
  listeners.add(callback);
  return () => {
    listeners.delete(callback);
  };
}

function call<T>(listeners: ReadonlySet<(value: T) => void>, value: T): void {
  for (const listener of [...listeners]) {
    listener(value);
  }
}
