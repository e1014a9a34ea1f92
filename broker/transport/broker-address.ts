import { brokerErrors } from "../errors.ts";

/** A broker's URL taken apart. */
export interface BrokerAddress {
  readonly protocol: "mqtt" | "mqtts";
  /** Without the brackets of an IPv6 address. */
  readonly host: string;
  readonly port: number;
  /** Credentials written into the URL. */
  readonly username?: string;
  readonly password?: string;
  /** Without credentials, for logs. */
  readonly shown: string;
}

/** Parses `mqtt://host:port` or `mqtts://host:port`; throws `BROKER_URL_INVALID`. */
export function parseBrokerUrl(url: string): BrokerAddress {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  const protocol = parsed?.protocol.slice(0, -1);
  if (parsed === undefined || parsed.hostname === "" || !isProtocol(protocol)) {
    // The URL may hold a password, so it is not repeated.
    throw brokerErrors.error("BROKER_URL_INVALID", "the broker's URL cannot be read", {
      hint: "write it as mqtt://HOST:1883, or mqtts://HOST:8883 for TLS",
    });
  }
  const port = parsed.port === "" ? defaultPorts[protocol] : Number(parsed.port);
  return {
    protocol,
    host: parsed.hostname.replace(/^\[(.*)\]$/, "$1"),
    port,
    ...(parsed.username === "" ? {} : { username: decodeURIComponent(parsed.username) }),
    ...(parsed.password === "" ? {} : { password: decodeURIComponent(parsed.password) }),
    shown: `${protocol}://${parsed.hostname}:${port}`,
  };
}

const defaultPorts = { mqtt: 1883, mqtts: 8883 } as const;

function isProtocol(name: string | undefined): name is keyof typeof defaultPorts {
  return name === "mqtt" || name === "mqtts";
}
