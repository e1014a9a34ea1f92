// MQTT over WebSocket (MQTT 3.1.1 section 6) for the embedded broker: the only door to the library `ws`.
import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { createWebSocketStream, type WebSocket, WebSocketServer } from "ws";

/** Path that MQTT clients ask for when none is given. */
export const webSocketPath = "/mqtt";

/** What a WebSocket listener holds its clients to. */
export interface WebSocketRules {
  /** Largest message; one may hold several packets or a part of one. */
  readonly maxMessageBytes: number;
  /** Most bytes of a connection, frames included, while `isKnown` says no. */
  readonly strangerBytes: number;
  readonly isKnown: (stream: Duplex) => boolean;
  /** Whether pages of a browser may connect: any page could, and a loopback listener asks for no password. */
  readonly allowBrowsers: boolean;
  readonly refused: (request: IncomingMessage, why: string) => void;
}

/** Hands over one stream of MQTT bytes for each WebSocket that `server` is asked for. */
export function acceptWebSockets(
  server: Server,
  rules: WebSocketRules,
  accept: (stream: Duplex, request: IncomingMessage) => void,
): void {
  const sockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    maxPayload: rules.maxMessageBytes,
    // Bodies are compressed already, and inflating would have to be bounded.
    perMessageDeflate: false,
    handleProtocols: () => subprotocol,
  });
  server.on("upgrade", (request, socket: Duplex, head) => {
    const refusal = refuseUpgrade(request, rules.allowBrowsers);
    if (refusal !== undefined) {
      rules.refused(request, refusal.why);
      socket.on("error", () => {});
      socket.end(`HTTP/1.1 ${refusal.status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    sockets.handleUpgrade(request, socket, head, (webSocket) => {
      accept(streamOf(webSocket, socket, rules), request);
    });
  });
}

const subprotocol = "mqtt";

/** [MQTT-6.0.0-3]: the client must offer the subprotocol "mqtt". */
function refuseUpgrade(
  { url, headers }: IncomingMessage,
  allowBrowsers: boolean,
): { status: string; why: string } | undefined {
  if (url?.split("?")[0] !== webSocketPath) {
    return { status: "404 Not Found", why: `the path is not ${webSocketPath}` };
  }
  const offered = headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim());
  if (!offered?.includes(subprotocol)) {
    return { status: "400 Bad Request", why: `the subprotocol ${subprotocol} is not offered` };
  }
  if (headers.origin !== undefined && !allowBrowsers) {
    return { status: "403 Forbidden", why: "a page of a browser, and no passwords are asked for" };
  }
  return undefined;
}

function streamOf(webSocket: WebSocket, socket: Duplex, rules: WebSocketRules): Duplex {
  const stream = createWebSocketStream(webSocket);
  webSocket.on("message", (_data, isBinary) => {
    // [MQTT-6.0.0-1]: any other frame than a binary one ends the connection.
    if (!isBinary) {
      stream.destroy(new Error("a WebSocket message of text"));
    }
  });
  limitStranger(stream, socket, rules);
  return stream;
}

/** `ws` collects a whole message before the packet guard sees a byte of it, so a stranger's bytes are counted below it. */
function limitStranger(stream: Duplex, socket: Duplex, rules: WebSocketRules): void {
  let bytes = 0;
  const count = (chunk: Uint8Array) => {
    if (rules.isKnown(stream)) {
      socket.off("data", count);
      return;
    }
    bytes += chunk.byteLength;
    if (bytes > rules.strangerBytes) {
      stream.destroy(new Error(`more than ${rules.strangerBytes} bytes from a stranger`));
    }
  };
  socket.on("data", count);
}
