// The broker inside the coordinator's process: aedes behind guarded listeners. Any other MQTT 3.1.1 broker
// serves as well; this one needs no installation.
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { type Duplex, duplexPair } from "node:stream";
import { Aedes, type AuthenticateError, type Client } from "aedes";
import { type Identity, refusePublish, refuseSubscribe } from "./access.ts";
import type { Credentials } from "./credentials.ts";
import { brokerErrors } from "./errors.ts";
import { identify, isDenial } from "./identity.ts";
import {
  createListener,
  isLoopback,
  type Listener,
  type ListenerAddress,
  type ListenerRules,
  type ListenerTls,
  type ListeningAddress,
} from "./listeners.ts";
import { guardStream } from "./packet-guard.ts";
import { openPersistence, type Persistence } from "./persistence.ts";
import { indexRetained, type RetainedStore } from "./retained-index.ts";
import { coordinatorId } from "./topics.ts";
import { schemes } from "./transport/broker-address.ts";
import type { Log } from "./transport/transport.ts";

/** How the broker listens. */
export interface BrokerOptions {
  /** A free port of 127.0.0.1 unless told. Beyond loopback `credentials`, or TLS with an authority of the clients, are required. */
  readonly listeners?: readonly ListenerAddress[];
  /** Passwords by user name: each device's id, and "coordinator". */
  readonly credentials?: Credentials;
  /** For the listeners `mqtts` and `wss`. */
  readonly tls?: ListenerTls;
  /** Largest packet of a connected client; 1 MiB unless told. */
  readonly maxPacketBytes?: number;
  /** Connections at once for each listener; 4096 unless told. */
  readonly maxConnections?: number;
  /** A connection that has not said who it is by then is closed; 10 s unless told. */
  readonly connectTimeoutMs?: number;
  /** A client that takes nothing for so long is disconnected; 15 s unless told. */
  readonly drainTimeoutMs?: number;
  /** Folder of what is retained, over restarts; in memory alone when left out. */
  readonly persistence?: string;
  /** With that folder: who was connected when a former broker died and has not come back by then is lost; 240 s unless told. */
  readonly lostAfterMs?: number;
  readonly log: Log;
}

/** A listening broker; `url`, `host` and `port` are those of its first listener. */
export interface Broker extends ListeningAddress {
  readonly listeners: readonly ListeningAddress[];
  /** Ids of the clients connected now. */
  clientIds(): readonly string[];
  /** Certificates with these serial numbers, hexadecimal, are not believed any more: who is connected with one is dropped now. */
  revoke(serials: Iterable<string>): void;
  /** A connection inside this process, for `connectMqtt`; it is the coordinator without having to prove it. */
  openInside(): Duplex;
  /** Ends every connection and frees the ports. Safe to call twice. */
  close(): Promise<void>;
}

/** Starts a broker. Throws `BROKER_LISTENER_UNPROTECTED`, `BROKER_PORT_TAKEN`, `BROKER_LISTEN_FAILED`, `BROKER_STORE_UNUSABLE` or `BROKER_TLS_FILES_INVALID`. */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const { listeners: addresses = [{}] } = options;
  for (const address of addresses) {
    checkProtected(address, options);
  }
  const streams = new Set<Duplex>();
  const accept = (stream: Duplex, request?: IncomingMessage) => {
    streams.add(stream);
    stream.once("close", () => streams.delete(stream));
    if (request !== undefined) {
      lowerSockets.set(stream, request.socket);
    }
    guardStream(stream, () => packetLimit(stream, options));
    aedes.handle(stream, request);
  };
  // Made first: unusable TLS files leave nothing to clean up.
  const rules = listenerRules(options);
  const listeners = addresses.map((address) => createListener(address, rules, accept));
  let revoked: ReadonlySet<string> = new Set();
  const store =
    options.persistence === undefined ? undefined : await openPersistence(options.persistence);
  const aedes = await createAedes(options, (serial) => revoked.has(serial), store);
  const close = once(async () => {
    await closeAll(aedes, listeners);
    await store?.close();
  });
  try {
    const listening = await Promise.all(listeners.map((listener) => listener.listen()));
    const [first] = listening;
    if (first === undefined) {
      throw new RangeError("a broker needs a listener");
    }
    const clientIds = () =>
      [...streams].flatMap((stream) => identities.get(stream)?.clientId ?? []);
    const revoke = (serials: Iterable<string>) => {
      revoked = new Set([...serials].map((serial) => serial.toLowerCase()));
      for (const stream of streams) {
        const { serial = "", clientId } = identities.get(stream) ?? {};
        if (revoked.has(serial)) {
          options.log(`dropped ${clientId}: its certificate ${serial} is revoked`);
          stream.destroy();
        }
      }
    };
    const openInside = () => connectInside(accept);
    return { ...first, listeners: listening, clientIds, revoke, openInside, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The end of an insider; the other one is the broker's. */
function connectInside(accept: (stream: Duplex) => void): Duplex {
  const [near, far] = duplexPair();
  for (const [one, other] of [
    [near, far],
    [far, near],
  ] as const) {
    // A pair passes an end on by itself, but not that one side was destroyed.
    one.once("close", () => one.writableFinished || other.destroy());
  }
  insiders.add(far);
  accept(far);
  return near;
}

function checkProtected({ host = "127.0.0.1", scheme }: ListenerAddress, options: BrokerOptions) {
  const { credentials, tls, log } = options;
  if (isLoopback(host)) {
    return;
  }
  const isSecure = scheme === undefined ? tls !== undefined : schemes[scheme].isSecure;
  const asksForCertificates = isSecure && tls?.ca !== undefined;
  if (credentials === undefined && !asksForCertificates) {
    throw brokerErrors.error(
      "BROKER_LISTENER_UNPROTECTED",
      `a listener on ${host} without certificates or passwords would let anyone on the network in`,
      {
        hint: "make certificates (trifold keys), give user names and passwords, or listen on 127.0.0.1",
      },
    );
  }
  if (!isSecure) {
    log(`passwords cross the network in the clear: the listener on ${host} has no TLS`);
  }
}

function listenerRules(options: BrokerOptions): ListenerRules {
  return {
    tls: options.tls,
    hasPasswords: options.credentials !== undefined,
    maxConnections: options.maxConnections ?? 4096,
    handshakeTimeoutMs: options.connectTimeoutMs ?? 10_000,
    webSocket: {
      // A fixed header is five bytes at most, and a client may put several packets into one message.
      maxMessageBytes: 2 * maxPacketBytesOf(options),
      strangerBytes: 4 * anonymousPacketBytes,
      isKnown: (stream) => identities.has(stream),
      allowBrowsers: options.credentials !== undefined,
    },
    log: options.log,
  };
}

function packetLimit(stream: Duplex, options: BrokerOptions): number {
  return identities.has(stream) ? maxPacketBytesOf(options) : anonymousPacketBytes;
}

function maxPacketBytesOf({ maxPacketBytes = 1024 * 1024 }: BrokerOptions): number {
  return maxPacketBytes;
}

/** Bytes of a packet before anyone has said who he is: a CONNECT with will and password fits. */
const anonymousPacketBytes = 4096;

/**
 * Packets of QoS 2 that a client may leave without their PUBREL (MQTT 3.1.1 section 4.3.3), which the broker must remember. Nothing
 * of ours sends at QoS 2; at aedes' default of 1000 one client made it hold 1.0 GB.
 */
const maxUnreleased = 8;

/** Of the streams that have authenticated. */
const identities = new WeakMap<object, Identity>();

/** Streams that begin in this process: they are the coordinator. */
const insiders = new WeakSet<object>();

/** Of the streams that are not sockets themselves. */
const lowerSockets = new WeakMap<object, Socket>();

async function createAedes(
  options: BrokerOptions,
  isRevoked: (serial: string) => boolean,
  store: Persistence | undefined,
): Promise<Aedes> {
  const { log, lostAfterMs = 240_000 } = options;
  const broker = await Aedes.createBroker({
    // aedes publishes the stored wills of dead brokers at every fourth heartbeat.
    heartbeatInterval: lostAfterMs / 4,
    ...(store === undefined ? {} : { persistence: store.aedes }),
    // At the defaults one frozen subscriber stalls unrelated topics: 6 of 79 messages arrived, so 79 of 79.
    concurrency: 5000,
    drainTimeout: options.drainTimeoutMs ?? 15_000,
    connectTimeout: options.connectTimeoutMs ?? 10_000,
    maxInflightInbound: maxUnreleased,
    preConnect: (_client, packet, callback) => {
      // A persistent session would collect messages in memory for a client that never returns.
      packet.clean = true;
      callback(null, true);
    },
    authenticate: (client, username, password, done) => {
      if (insiders.has(client.conn)) {
        identities.set(client.conn, { clientId: client.id, username: coordinatorId });
        done(null, true);
        return;
      }
      const socket = lowerSockets.get(client.conn) ?? (client.conn as Duplex);
      const claim = { clientId: client.id, username, password };
      const { credentials } = options;
      const outcome = identify(socket, claim, { credentials, isRevoked });
      if (!isDenial(outcome)) {
        identities.set(client.conn, outcome);
        done(null, true);
        return;
      }
      const { message, returnCode } = outcome;
      log(`refused the connection of ${describe(client)}: ${message}`);
      done(Object.assign(new Error(message), { returnCode }) as AuthenticateError, false);
    },
    authorizePublish: (client, packet, callback) => {
      const identity = client === null ? authorOfWill(packet) : identities.get(client.conn);
      const refusal = refuse(identity, packet.topic, refusePublish);
      if (refusal !== undefined) {
        log(`refused ${describe(client)} to publish to ${shorten(packet.topic)}: ${refusal}`);
      }
      if (refusal !== undefined && client === null) {
        // Aedes has nobody to tell of an error here, and its rejection would be nobody's: it goes where nobody reads.
        Object.assign(packet, { topic: "trifold/refused", retain: false });
        callback(null);
        return;
      }
      callback(refusal === undefined ? null : new Error(refusal));
    },
    authorizeSubscribe: (client, subscription, callback) => {
      const refusal = refuse(identities.get(client.conn), subscription.topic, refuseSubscribe);
      if (refusal !== undefined) {
        log(`refused ${describe(client)} to read ${shorten(subscription.topic)}: ${refusal}`);
      }
      callback(null, refusal === undefined ? subscription : null);
    },
  });
  if (store === undefined) {
    indexRetained((broker as unknown as { readonly persistence: RetainedStore }).persistence);
  }
  const dropped = (who: string, { message }: Error): void => {
    // What was still on its way to a broker that closes is nobody's fault.
    if (!broker.closed) log(`dropped ${who}: ${message}`);
  };
  broker.on("clientError", (client, error) => dropped(describe(client), error));
  broker.on("connectionError", (_client, error) => dropped("a connection", error));
  // An EventEmitter's "error" without a listener would end the process.
  (broker as NodeJS.EventEmitter).on("error", (error: Error) => log(`broker: ${error.message}`));
  return broker;
}

/** A message without a client is a will that was stored when its client had been let in, and the broker died before it. */
function authorOfWill(packet: object): Identity | undefined {
  const { clientId } = packet as { readonly clientId?: unknown };
  return typeof clientId === "string" ? { clientId } : undefined;
}

function refuse(
  identity: Identity | undefined,
  topic: string,
  rule: (identity: Identity, topic: string) => string | undefined,
): string | undefined {
  return identity === undefined ? "not connected" : rule(identity, topic);
}

async function closeAll(aedes: Aedes, listeners: readonly Listener[]): Promise<void> {
  await new Promise<void>((resolve) => aedes.close(() => resolve()));
  await Promise.all(listeners.map((listener) => listener.close()));
}

function once(action: () => Promise<void>): () => Promise<void> {
  let result: Promise<void> | undefined;
  return () => {
    result ??= action();
    return result;
  };
}

function describe(client: Client | null): string {
  const identity = client === null ? undefined : identities.get(client.conn);
  const id = identity?.clientId ?? client?.id ?? "a client";
  const conn = client?.conn as (Duplex & Partial<Socket>) | undefined;
  const remoteAddress = conn && (lowerSockets.get(conn) ?? conn).remoteAddress;
  return remoteAddress === undefined ? shorten(id) : `${shorten(id)} (${remoteAddress})`;
}

/** Foreign text for a log: bounded, control characters escaped. */
function shorten(text: string): string {
  return JSON.stringify(text.slice(0, 160)).slice(1, -1);
}
