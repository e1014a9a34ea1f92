// Messages between `publish` and their PUBACK, in the order they were published.
import { brokerErrors } from "../errors.ts";
import type { QueueSize } from "./transport.ts";

/** A message on its way out. */
export interface OutgoingMessage {
  readonly topic: string;
  readonly bytes: Uint8Array;
  readonly qos: 0 | 1;
  readonly retain: boolean;
}

/** A message handed to a connection. */
export interface Taken {
  readonly message: OutgoingMessage;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
}

/** A bounded queue whose messages stay until they are acknowledged. */
export interface Outbox {
  /** Settles when the message is acknowledged, aborted or rejected. */
  add(message: OutgoingMessage, signal: AbortSignal | undefined): Promise<void>;
  /** The next message that is not under way, now under way. */
  take(): Taken | undefined;
  /** Everything under way waits again, oldest first. */
  requeue(): void;
  rejectAll(reason: Error): void;
  /** What is not acknowledged yet, under way or not. */
  size(): QueueSize;
}

/** An outbox that holds at most `maxWaiting` messages. */
export function createOutbox(maxWaiting: number): Outbox {
  const waiting = new Set<Entry>();
  const underWay = new Set<Entry>();
  const forget = (entry: Entry) => {
    waiting.delete(entry);
    underWay.delete(entry);
  };
  return {
    add: (message, signal) => {
      if (waiting.size + underWay.size >= maxWaiting) {
        return Promise.reject(overloaded(maxWaiting));
      }
      const entry = createEntry(message, signal, forget);
      waiting.add(entry);
      return entry.settled;
    },
    take: () => {
      const [entry] = waiting;
      if (entry === undefined) {
        return undefined;
      }
      waiting.delete(entry);
      underWay.add(entry);
      return { message: entry.message, done: entry.resolve, failed: entry.reject };
    },
    requeue: () => {
      const again = [...underWay, ...waiting];
      underWay.clear();
      waiting.clear();
      for (const entry of again) {
        waiting.add(entry);
      }
    },
    rejectAll: (reason) => {
      for (const entry of [...underWay, ...waiting]) {
        entry.reject(reason);
      }
    },
    size: () => {
      let bytes = 0;
      for (const { message } of [...underWay, ...waiting]) {
        bytes += message.bytes.byteLength;
      }
      return { messages: underWay.size + waiting.size, bytes };
    },
  };
}

interface Entry {
  readonly message: OutgoingMessage;
  readonly settled: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

function createEntry(
  message: OutgoingMessage,
  signal: AbortSignal | undefined,
  forget: (entry: Entry) => void,
): Entry {
  let resolve = () => {};
  let reject: (reason: unknown) => void = () => {};
  const settled = new Promise<void>((done, failed) => {
    resolve = done;
    reject = failed;
  });
  const onAbort = () => entry.reject(signal?.reason);
  const finish = () => {
    signal?.removeEventListener("abort", onAbort);
    forget(entry);
  };
  const entry: Entry = {
    message,
    settled,
    resolve: () => {
      finish();
      resolve();
    },
    reject: (reason) => {
      finish();
      reject(reason);
    },
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  return entry;
}

function overloaded(maxWaiting: number): Error {
  return brokerErrors.error(
    "BROKER_OVERLOADED",
    `${maxWaiting} messages already wait for the broker`,
    { hint: "the broker is down or slower than what is sent; wait before sending more" },
  );
}
