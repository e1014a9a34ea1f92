import { brokerErrors } from "../errors.ts";

/** How MQTT travels, by the scheme of a URL; ports as registered with IANA, those of HTTP for WebSockets. */
export const schemes = {
  mqtt: { isSecure: false, isWebSocket: false, port: 1883 },
  mqtts: { isSecure: true, isWebSocket: false, port: 8883 },
  ws: { isSecure: false, isWebSocket: true, port: 80 },
  wss: { isSecure: true, isWebSocket: true, port: 443 },
} as const;

/** Scheme of a broker's URL. */
export type BrokerScheme = keyof typeof schemes;

/** A broker's URL taken apart. */
export interface BrokerAddress {
  readonly protocol: BrokerScheme;
  /** Without the brackets of an IPv6 address. */
  readonly host: string;
  readonly port: number;
  /** Of a WebSocket: `/mqtt` unless the URL has one. */
  readonly path?: string;
  /** Credentials written into the URL. */
  readonly username?: string;
  readonly password?: string;
  /** Without credentials, for logs. */
  readonly shown: string;
}

/** Parses a URL such as `mqtt://host:port` or `wss://host/path`; throws `BROKER_URL_INVALID`. */
export function parseBrokerUrl(url: string): BrokerAddress {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  const protocol = parsed?.protocol.slice(0, -1);
  if (parsed === undefined || parsed.hostname === "" || !isScheme(protocol)) {
    // The URL may hold a password, so it is not repeated.
    throw brokerErrors.error("BROKER_URL_INVALID", "the broker's URL cannot be read", {
      hint: "write it as mqtt://HOST:1883, or mqtts://HOST:8883 for TLS; ws://HOST:PORT/mqtt and wss:// work too",
    });
  }
  const { isWebSocket, port: defaultPort } = schemes[protocol];
  const port = parsed.port === "" ? defaultPort : Number(parsed.port);
  const path = `${parsed.pathname === "/" ? "/mqtt" : parsed.pathname}${parsed.search}`;
  return {
    protocol,
    host: parsed.hostname.replace(/^\[(.*)\]$/, "$1"),
    port,
    ...(isWebSocket ? { path } : {}),
    ...(parsed.username === "" ? {} : { username: decodeURIComponent(parsed.username) }),
    ...(parsed.password === "" ? {} : { password: decodeURIComponent(parsed.password) }),
    shown: `${protocol}://${parsed.hostname}:${port}`,
  };
}

/** Whether `name` is a scheme of `schemes`. */
export function isScheme(name: string | undefined): name is BrokerScheme {
  return name !== undefined && Object.hasOwn(schemes, name);
}
