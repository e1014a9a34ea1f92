// Who wants which messages. One subscription per call; several may share a filter.
import { matchesFilter } from "../topics.ts";
import type { MessageHandler, TransportMessage } from "./transport.ts";

/** A filter, its handler, and whether the broker has granted it yet. */
export interface Subscription {
  readonly filter: string;
  readonly handler: MessageHandler;
  /** Settles once, at the broker's first answer. */
  readonly granted: Promise<void>;
  readonly grant: () => void;
  readonly refuse: (reason: Error) => void;
}

/** The subscriptions of one client. */
export interface Subscriptions {
  add(filter: string, handler: MessageHandler): Subscription;
  /** Whether it was the last one with its filter. */
  remove(subscription: Subscription): boolean;
  all(): readonly Subscription[];
  dispatch(message: TransportMessage): void;
  rejectAll(reason: Error): void;
}

/** No subscriptions yet. Exact topics are looked up, wildcards are tried one by one. */
export function createSubscriptions(): Subscriptions {
  const byFilter = new Map<string, Set<Subscription>>();
  const wildcards = new Set<string>();
  const all = () => [...byFilter.values()].flatMap((group) => [...group]);
  return {
    all,
    add: (filter, handler) => {
      const subscription = createSubscription(filter, handler);
      const group = byFilter.get(filter) ?? new Set();
      byFilter.set(filter, group.add(subscription));
      if (filter.includes("+") || filter.includes("#")) {
        wildcards.add(filter);
      }
      return subscription;
    },
    remove: (subscription) => {
      const group = byFilter.get(subscription.filter);
      if (group?.delete(subscription) !== true || group.size > 0) {
        return false;
      }
      wildcards.delete(subscription.filter);
      return byFilter.delete(subscription.filter);
    },
    dispatch: (message) => {
      const matching = [...wildcards].filter((filter) => matchesFilter(filter, message.topic));
      for (const filter of new Set([message.topic, ...matching])) {
        for (const subscription of [...(byFilter.get(filter) ?? [])]) {
          subscription.handler(message);
        }
      }
    },
    rejectAll: (reason) => {
      for (const subscription of all()) {
        subscription.refuse(reason);
      }
    },
  };
}

function createSubscription(filter: string, handler: MessageHandler): Subscription {
  let grant = () => {};
  let refuse: (reason: Error) => void = () => {};
  const granted = new Promise<void>((resolve, reject) => {
    grant = resolve;
    refuse = reject;
  });
  // The broker may refuse before anyone waits.
  granted.catch(() => {});
  return { filter, handler, granted, grant, refuse };
}
