// The broker inside the coordinator's process: aedes behind a guarded listener. Any other MQTT 3.1.1 broker
// serves as well; this one needs no installation.
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { Aedes, type AuthenticateError, type Client } from "aedes";
import type { TrifoldError } from "../runtime/index.ts";
import { type Identity, refuseConnect, refusePublish, refuseSubscribe } from "./access.ts";
import { type Credentials, hasPassword } from "./credentials.ts";
import { brokerErrors } from "./errors.ts";
import { createPacketGuard } from "./packet-guard.ts";
import type { Log } from "./transport/transport.ts";

/** How the broker listens. */
export interface BrokerOptions {
  /** 127.0.0.1 unless told; beyond loopback `credentials` are required. */
  readonly host?: string;
  /** 0, the default, takes a free port. */
  readonly port?: number;
  /** Passwords by user name: each device's id, and "coordinator". */
  readonly credentials?: Credentials;
  /** PEM texts. With them the listener speaks TLS only; with `ca` it demands client certificates. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca?: string };
  /** Largest packet of a connected client; 1 MiB unless told. */
  readonly maxPacketBytes?: number;
  /** Connections at once; 4096 unless told. */
  readonly maxConnections?: number;
  /** A connection that has not said who it is by then is closed; 10 s unless told. */
  readonly connectTimeoutMs?: number;
  /** A client that takes nothing for so long is disconnected; 15 s unless told. */
  readonly drainTimeoutMs?: number;
  readonly log: Log;
}

/** A listening broker. */
export interface Broker {
  /** For `connectMqtt` on this machine, such as `mqtt://127.0.0.1:40123`. */
  readonly url: string;
  readonly host: string;
  readonly port: number;
  /** Ids of the clients connected now. */
  clientIds(): readonly string[];
  /** Ends every connection and frees the port. Safe to call twice. */
  close(): Promise<void>;
}

/** Starts a broker. Throws `BROKER_LISTENER_UNPROTECTED`, `BROKER_PORT_TAKEN`, `BROKER_LISTEN_FAILED` or `BROKER_TLS_FILES_INVALID`. */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const { host = "127.0.0.1", port = 0, credentials, tls, log } = options;
  if (credentials === undefined && !isLoopback(host)) {
    throw brokerErrors.error(
      "BROKER_LISTENER_UNPROTECTED",
      `a listener on ${host} without credentials would let anyone on the network in`,
      { hint: "give user names and passwords, or listen on 127.0.0.1" },
    );
  }
  if (credentials !== undefined && tls === undefined && !isLoopback(host)) {
    log(`passwords cross the network in the clear: the listener on ${host} has no TLS`);
  }
  const sockets = new Set<Socket>();
  // Made first: unusable TLS files leave nothing to clean up.
  const server = createListener(options, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    guardSocket(socket, options);
    aedes.handle(socket);
  });
  const aedes = await createAedes(options);
  server.maxConnections = options.maxConnections ?? 4096;
  try {
    const boundPort = await listen(server, host, port);
    const close = once(() => closeAll(aedes, server, sockets));
    const scheme = tls === undefined ? "mqtt" : "mqtts";
    const shown = host.includes(":") ? `[${host}]` : host;
    const clientIds = () =>
      [...sockets].flatMap((socket) => identities.get(socket)?.clientId ?? []);
    return { url: `${scheme}://${shown}:${boundPort}`, host, port: boundPort, clientIds, close };
  } catch (error) {
    await closeAll(aedes, server, sockets);
    throw error;
  }
}

/** Whether an address is reachable from this machine only. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^(::ffff:)?127(\.\d{1,3}){3}$/.test(host);
}

/** Bytes of a packet before anyone has said who he is: a CONNECT with will and password fits. */
const anonymousPacketBytes = 4096;

/** Of the sockets that have authenticated. */
const identities = new WeakMap<object, Identity>();

async function createAedes(options: BrokerOptions): Promise<Aedes> {
  const { log } = options;
  const broker = await Aedes.createBroker({
    // At the defaults one frozen subscriber stalls unrelated topics: 6 of 79 messages arrived, so 79 of 79.
    concurrency: 5000,
    drainTimeout: options.drainTimeoutMs ?? 15_000,
    connectTimeout: options.connectTimeoutMs ?? 10_000,
    preConnect: (_client, packet, callback) => {
      // A persistent session would collect messages in memory for a client that never returns.
      packet.clean = true;
      callback(null, true);
    },
    authenticate: (client, username, password, done) => {
      const refusal = admit(client, username, password, options.credentials);
      if (refusal === undefined) {
        done(null, true);
        return;
      }
      log(`refused the connection of ${describe(client)}: ${refusal.message}`);
      done(
        Object.assign(new Error(refusal.message), {
          returnCode: refusal.returnCode,
        }) as AuthenticateError,
        false,
      );
    },
    authorizePublish: (client, packet, callback) => {
      const refusal = refuse(client, packet.topic, refusePublish);
      if (refusal !== undefined) {
        log(`refused ${describe(client)} to publish to ${shorten(packet.topic)}: ${refusal}`);
      }
      callback(refusal === undefined ? null : new Error(refusal));
    },
    authorizeSubscribe: (client, subscription, callback) => {
      const refusal = refuse(client, subscription.topic, refuseSubscribe);
      if (refusal !== undefined) {
        log(`refused ${describe(client)} to read ${shorten(subscription.topic)}: ${refusal}`);
      }
      callback(null, refusal === undefined ? subscription : null);
    },
  });
  broker.on("clientError", (client, error) => log(`dropped ${describe(client)}: ${error.message}`));
  broker.on("connectionError", (_client, error) => log(`dropped a connection: ${error.message}`));
  // An EventEmitter's "error" without a listener would end the process.
  (broker as NodeJS.EventEmitter).on("error", (error: Error) => log(`broker: ${error.message}`));
  return broker;
}

/** Aedes' AuthErrorCode is an ambient const enum, which isolated modules cannot read. */
const returnCodes = { identifierRejected: 2, badUserNameOrPassword: 4, notAuthorised: 5 } as const;

interface Admission {
  readonly message: string;
  readonly returnCode: number;
}

function admit(
  client: Client,
  username: string | undefined,
  password: Buffer | undefined,
  credentials: Credentials | undefined,
): Admission | undefined {
  if (credentials !== undefined && !hasPassword(credentials, username, password)) {
    return {
      message: "wrong user name or password",
      returnCode: returnCodes.badUserNameOrPassword,
    };
  }
  const proven = credentials === undefined ? undefined : username;
  const identity = { clientId: client.id, ...(proven === undefined ? {} : { username: proven }) };
  const refusal = refuseConnect(identity);
  if (refusal !== undefined) {
    return { message: refusal, returnCode: returnCodes.identifierRejected };
  }
  identities.set(client.conn, identity);
  return undefined;
}

function refuse(
  client: Client | null,
  topic: string,
  rule: (identity: Identity, topic: string) => string | undefined,
): string | undefined {
  const identity = client === null ? undefined : identities.get(client.conn);
  return identity === undefined ? "not connected" : rule(identity, topic);
}

/** Puts the guard between the socket and whoever reads from it. */
function guardSocket(socket: Socket, { maxPacketBytes = 1024 * 1024 }: BrokerOptions): void {
  const guard = createPacketGuard(() =>
    identities.has(socket) ? maxPacketBytes : anonymousPacketBytes,
  );
  const read = socket.read.bind(socket);
  socket.read = (size?: number) => {
    const chunk = read(size);
    const refusal = chunk === null ? undefined : guard.inspect(chunk);
    if (refusal === undefined) {
      return chunk;
    }
    socket.destroy(new Error(refusal));
    return null;
  };
}

function createListener(options: BrokerOptions, accept: (socket: Socket) => void): Server {
  const { tls } = options;
  if (tls === undefined) {
    return createServer({ noDelay: true }, accept);
  }
  try {
    const handshakeTimeout = options.connectTimeoutMs ?? 10_000;
    const requestCert = tls.ca !== undefined;
    const server = createTlsServer(
      { noDelay: true, handshakeTimeout, requestCert, ...tls },
      accept,
    );
    server.on("tlsClientError", (error) => options.log(`TLS handshake failed: ${error.message}`));
    return server;
  } catch (cause) {
    throw brokerErrors.error(
      "BROKER_TLS_FILES_INVALID",
      "the listener's TLS files cannot be used",
      {
        cause,
        hint: "give PEM texts: the certificate, its key, and the authority of the clients if any",
      },
    );
  }
}

function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      reject(listenError(error, host, port));
    });
    server.listen({ host, port }, () => {
      const address = server.address();
      resolve(typeof address === "object" && address !== null ? address.port : port);
    });
  });
}

function listenError(cause: NodeJS.ErrnoException, host: string, port: number): TrifoldError {
  if (cause.code === "EADDRINUSE") {
    const hint = "stop the program that listens there, or choose another port";
    const text = `port ${port} on ${host} is taken`;
    return brokerErrors.error("BROKER_PORT_TAKEN", text, { cause, hint });
  }
  const text = `cannot listen on ${host}, port ${port} (${cause.code ?? cause.message})`;
  const hint = "ports below 1024 need rights; the host must be an address of this machine";
  return brokerErrors.error("BROKER_LISTEN_FAILED", text, { cause, hint });
}

async function closeAll(aedes: Aedes, server: Server, sockets: ReadonlySet<Socket>): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  await new Promise<void>((resolve) => aedes.close(() => resolve()));
  for (const socket of sockets) {
    socket.destroy();
  }
  await closed;
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
  const { remoteAddress } = (client?.conn ?? {}) as Partial<Socket>;
  return remoteAddress === undefined ? shorten(id) : `${shorten(id)} (${remoteAddress})`;
}

/** Foreign text for a log: bounded, control characters escaped. */
function shorten(text: string): string {
  return JSON.stringify(text.slice(0, 160)).slice(1, -1);
}
