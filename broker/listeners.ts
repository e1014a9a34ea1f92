// Where the embedded broker listens: TCP, TLS, WebSocket and WebSocket over TLS, each connection handed over
// as one stream of MQTT bytes.
import {
  createServer as createHttpServer,
  type Server as HttpServer,
  type IncomingMessage,
} from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { createServer as createTcpServer, type Server, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { createServer as createTlsServer } from "node:tls";
import type { TrifoldError } from "../runtime/index.ts";
import { brokerErrors } from "./errors.ts";
import { type BrokerScheme, schemes } from "./transport/broker-address.ts";
import type { Log } from "./transport/transport.ts";
import { acceptWebSockets, type WebSocketRules, webSocketPath } from "./websocket.ts";

/** One address to listen on. */
export interface ListenerAddress {
  /** `mqtts` when the broker has TLS files, else `mqtt`, unless told. */
  readonly scheme?: BrokerScheme;
  /** 127.0.0.1 unless told. */
  readonly host?: string;
  /** 0, the default, takes a free port. */
  readonly port?: number;
}

/** PEM texts; with `ca` the listener asks for client certificates, and demands them where there are no passwords. */
export interface ListenerTls {
  readonly cert: string;
  readonly key: string;
  readonly ca?: string;
  /** Certificates that are revoked, of the authority `ca`. */
}

/** What all listeners of a broker share. */
export interface ListenerRules {
  readonly tls: ListenerTls | undefined;
  /** A client without a certificate may still have a password. */
  readonly hasPasswords: boolean;
  readonly maxConnections: number;
  /** For the TLS handshake and the request of a WebSocket, each. */
  readonly handshakeTimeoutMs: number;
  readonly webSocket: Omit<WebSocketRules, "refused">;
  readonly log: Log;
}

/** Takes a connection. The request is a WebSocket's; its `socket` is the one below `stream`. */
export type Accept = (stream: Duplex, request?: IncomingMessage) => void;

/** An address that is listened on. */
export interface ListeningAddress {
  /** For `connectMqtt` on this machine, such as `ws://127.0.0.1:40123/mqtt`. */
  readonly url: string;
  readonly host: string;
  readonly port: number;
}

/** A server that does not listen yet. */
export interface Listener {
  /** Throws `BROKER_PORT_TAKEN` or `BROKER_LISTEN_FAILED`. */
  listen(): Promise<ListeningAddress>;
  /** Frees the port and ends every connection, unfinished handshakes included. */
  close(): Promise<void>;
}

/** Makes the server of an address; throws `BROKER_TLS_FILES_INVALID`. */
export function createListener(
  address: ListenerAddress,
  rules: ListenerRules,
  accept: Accept,
): Listener {
  const scheme = address.scheme ?? (rules.tls === undefined ? "mqtt" : "mqtts");
  const { host = "127.0.0.1", port = 0 } = address;
  const server = createServer(scheme, rules, accept);
  const sockets = new Set<Socket>();
  // Of a TLS server too this is the TCP socket, before any handshake.
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  server.maxConnections = rules.maxConnections;
  return {
    listen: async () => {
      const bound = await listen(server, host, port);
      const shown = host.includes(":") ? `[${host}]` : host;
      const path = schemes[scheme].isWebSocket ? webSocketPath : "";
      return { url: `${scheme}://${shown}:${bound}${path}`, host, port: bound };
    },
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) {
        socket.destroy();
      }
      await closed;
    },
  };
}

/** Whether an address is reachable from this machine only. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^(::ffff:)?127(\.\d{1,3}){3}$/.test(host);
}

function createServer(scheme: BrokerScheme, rules: ListenerRules, accept: Accept): Server {
  const { isSecure, isWebSocket } = schemes[scheme];
  if (!isSecure) {
    return isWebSocket
      ? webSocketServer(createHttpServer(httpOptions(rules)), rules, accept)
      : createTcpServer({ noDelay: true }, (socket) => accept(socket));
  }
  try {
    const options = tlsOptions(rules);
    const server = isWebSocket
      ? webSocketServer(createHttpsServer({ ...httpOptions(rules), ...options }), rules, accept)
      : createTlsServer(options, (socket) => accept(socket));
    server.on("tlsClientError", (error) => rules.log(`TLS handshake failed: ${error.message}`));
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

function tlsOptions({ tls, hasPasswords, handshakeTimeoutMs }: ListenerRules) {
  if (tls === undefined) {
    throw new Error("a listener with TLS needs a certificate and its key");
  }
  const requestCert = tls.ca !== undefined;
  const rejectUnauthorized = requestCert && !hasPasswords;
  const timing = { noDelay: true, handshakeTimeout: handshakeTimeoutMs };
  return { ...timing, requestCert, rejectUnauthorized, ...tls };
}

function httpOptions({ handshakeTimeoutMs }: ListenerRules) {
  return {
    noDelay: true,
    maxHeaderSize: 8192,
    headersTimeout: handshakeTimeoutMs,
    requestTimeout: handshakeTimeoutMs,
    // Both timeouts are looked at this often.
    connectionsCheckingInterval: handshakeTimeoutMs,
  };
}

function webSocketServer<S extends HttpServer>(server: S, rules: ListenerRules, accept: Accept): S {
  server.on("request", (_request, response) => {
    response.writeHead(426, { connection: "close" }).end();
  });
  const refused = ({ socket }: IncomingMessage, why: string) =>
    rules.log(`refused a WebSocket of ${socket.remoteAddress}: ${why}`);
  acceptWebSockets(server, { ...rules.webSocket, refused }, accept);
  return server;
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
