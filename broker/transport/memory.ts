// The trivial transport: a broker that is a few maps in this process. Same promises as MQTT: retained
// messages, wildcards, last wills, takeover of a client id, delivery never within the call that sent.
import { checkId, matchesFilter } from "../topics.ts";
import { type Connection, createSession, type Session } from "./session.ts";
import type { Log, Transport, TransportMessage, WillOf } from "./transport.ts";

/** A broker in memory with the transports connected to it. */
export interface MemoryHub {
  connect(options: MemoryOptions): Promise<Transport>;
  /** Takes a transport's network away: its will is published, it is offline until `restore`. */
  cut(transport: Transport): void;
  /** Connects it again, taking its client id over from whoever has it now. */
  restore(transport: Transport): Promise<void>;
  /** Closes every transport. */
  close(): Promise<void>;
}

/** How a client connects. */
export interface MemoryOptions {
  readonly clientId: string;
  readonly will?: WillOf;
  readonly log?: Log;
}

/** A broker without clients. */
export function createMemoryHub(): MemoryHub {
  const broker: Broker = { clients: new Map(), retained: new Map() };
  return {
    connect: async (options) => {
      const client = createClient(broker, options);
      await open(broker, client);
      return client.session;
    },
    cut: (transport) => {
      const client = broker.clients.get(transport);
      if (client !== undefined) {
        drop(broker, client);
      }
    },
    restore: async (transport) => {
      const client = broker.clients.get(transport);
      if (client?.online === false) {
        await open(broker, client);
      }
    },
    close: async () => {
      await Promise.all([...broker.clients.keys()].map((transport) => transport.close()));
    },
  };
}

interface Broker {
  readonly clients: Map<Transport, Client>;
  readonly retained: Map<string, Uint8Array>;
}

interface Client {
  readonly options: MemoryOptions;
  readonly session: Session;
  readonly filters: Set<string>;
  /** Connections made; what was sent on an earlier one is not delivered. */
  connections: number;
  online: boolean;
}

function createClient(broker: Broker, options: MemoryOptions): Client {
  const session = createSession({
    clientId: checkId("client", options.clientId),
    log: options.log ?? (() => {}),
    stop: () => {
      broker.clients.delete(session);
    },
  });
  const client: Client = { options, session, filters: new Set(), connections: 0, online: false };
  broker.clients.set(session, client);
  return client;
}

async function open(broker: Broker, client: Client): Promise<void> {
  for (const rival of broker.clients.values()) {
    // [MQTT-3.1.4-2]: a new connection takes the client id over.
    if (rival !== client && rival.options.clientId === client.options.clientId) {
      drop(broker, rival);
    }
  }
  client.online = true;
  client.connections += 1;
  await client.session.opened(createConnection(broker, client), client.connections);
}

function createConnection(broker: Broker, client: Client): Connection {
  const connection = client.connections;
  const isLive = () => client.online && client.connections === connection;
  return {
    publish: ({ topic, bytes, qos, retain }) => {
      const copy = Uint8Array.from(bytes);
      return new Promise((resolve) => {
        setImmediate(() => {
          if (isLive()) {
            route(broker, { topic, bytes: copy, retained: false }, { qos, retain });
            resolve();
          }
        });
      });
    },
    subscribe: async (filter) => {
      client.filters.add(filter);
      for (const [topic, bytes] of broker.retained) {
        if (matchesFilter(filter, topic)) {
          deliver(client, { topic, bytes, retained: true }, 1);
        }
      }
      return true;
    },
    unsubscribe: async (filter) => {
      client.filters.delete(filter);
    },
    end: async (will) => {
      client.online = false;
      if (will === "publish") {
        publishWill(broker, client);
      }
    },
  };
}

function drop(broker: Broker, client: Client): void {
  if (client.online) {
    client.online = false;
    client.filters.clear();
    publishWill(broker, client);
    client.session.lost();
  }
}

function publishWill(broker: Broker, client: Client): void {
  const will = client.options.will?.(client.connections);
  if (will !== undefined) {
    route(broker, { ...will, retained: false }, { qos: 1, retain: true });
  }
}

function route(
  broker: Broker,
  message: TransportMessage,
  { qos, retain }: { qos: number; retain: boolean },
): void {
  if (retain && message.bytes.byteLength === 0) {
    broker.retained.delete(message.topic);
  } else if (retain) {
    broker.retained.set(message.topic, message.bytes);
  }
  for (const client of broker.clients.values()) {
    if ([...client.filters].some((filter) => matchesFilter(filter, message.topic))) {
      deliver(client, message, qos);
    }
  }
}

function deliver(client: Client, message: TransportMessage, qos: number): void {
  const connection = client.connections;
  setImmediate(() => {
    if (client.online && client.connections === connection) {
      client.session.arrived(message, qos);
    }
  });
}
