// The transport over MQTT 3.1.1. mqtt.js carries one connection at a time and nothing else: queueing,
// reconnecting and subscribing again are the session's, because mqtt.js queues without limit while
// offline and never calls back for what a dropped connection took with it.
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { createSecureContext } from "node:tls";
import mqtt, { type IClientOptions, MqttClient } from "mqtt";
import { type Clock, systemClock } from "../clock.ts";
import { brokerErrors } from "../errors.ts";
import { checkId } from "../topics.ts";
import { type BackOff, backOffMs, defaultBackOff } from "./back-off.ts";
import { type BrokerAddress, parseBrokerUrl, schemes } from "./broker-address.ts";
import { finalRefusal, passingTrouble } from "./refusals.ts";
import { type Connection, createSession, type Session } from "./session.ts";
import { packetBytes } from "./traffic.ts";
import type { LastWill, Log, Transport, WillOf } from "./transport.ts";

/** How to reach a broker. */
export interface MqttOptions {
  /** `mqtt://host:port`, `mqtts://host:port`, `ws://host:port/path` or `wss://host:port/path`. */
  readonly url: string;
  /** Opens a stream to the broker in place of a connection to `url`, which then is its name in logs. */
  readonly open?: () => Duplex;
  readonly clientId: string;
  readonly username?: string;
  readonly password?: string;
  /** PEM texts: authority to trust, own certificate and its key. Need an mqtts or wss URL. */
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  /** Made anew for each connection; retained, QoS 1. */
  readonly will?: WillOf;
  readonly log: Log;
  /** Gives up waiting for the first connection. */
  readonly signal?: AbortSignal;
  readonly keepaliveSeconds?: number;
  readonly backOff?: BackOff;
  readonly maxWaiting?: number;
  readonly clock?: Clock;
  readonly random?: () => number;
}

/**
 * Connects to a broker, trying again with back-off and a log line until it answers. Rejects at once with
 * `BROKER_CREDENTIALS_REFUSED`, `BROKER_CERTIFICATE_REFUSED`, `BROKER_URL_INVALID` or `BROKER_TLS_FILES_INVALID`.
 */
export async function connectMqtt(options: MqttOptions): Promise<Transport> {
  const address = parseBrokerUrl(options.url);
  checkId("client", options.clientId);
  checkTlsFiles(options, address);
  options.signal?.throwIfAborted();
  return new MqttDriver(options, address).start();
}

function checkTlsFiles({ ca, cert, key }: MqttOptions, { protocol, shown }: BrokerAddress): void {
  if ([ca, cert, key].every((text) => text === undefined)) {
    return;
  }
  if (!schemes[protocol].isSecure) {
    // mqtt.js would go on in the clear.
    const text = `TLS files were given for ${shown}, which is not encrypted`;
    const hint = "write the broker's URL as mqtts://HOST:8883 or wss://HOST:PORT";
    throw brokerErrors.error("BROKER_URL_INVALID", text, { hint });
  }
  try {
    // A WebSocket would report unusable ones like a broker that does not answer.
    createSecureContext({ ca, cert, key });
  } catch (cause) {
    const text = `the TLS files for ${shown} cannot be used`;
    const hint = "give PEM texts: --ca the authority, --cert the certificate, --key its key";
    throw brokerErrors.error("BROKER_TLS_FILES_INVALID", text, { cause, hint });
  }
}

/** A connection that lasted this long was not refused by a broker that lets in and throws out. */
const stableAfterMs = 5000;

class MqttDriver {
  readonly #options: MqttOptions;
  readonly #address: BrokerAddress;
  readonly #clock: Clock;
  readonly #session: Session;
  #client: MqttClient | undefined;
  #connections = 0;
  #failures = 0;
  #connectedAtMs: number | undefined;
  #lastError: Error | undefined;
  #cancelRetry = () => {};

  constructor(options: MqttOptions, address: BrokerAddress) {
    this.#options = options;
    this.#address = address;
    this.#clock = options.clock ?? systemClock;
    this.#session = createSession({
      clientId: options.clientId,
      log: options.log,
      ...(options.maxWaiting === undefined ? {} : { maxWaiting: options.maxWaiting }),
      stop: () => this.#stop(),
    });
  }

  start(): Promise<Transport> {
    const { signal } = this.#options;
    return new Promise((resolve, reject) => {
      const settle = (action: () => void) => {
        stopConnected();
        stopClosed();
        signal?.removeEventListener("abort", onAbort);
        action();
      };
      const stopConnected = this.#session.onConnected(() => settle(() => resolve(this.#session)));
      const stopClosed = this.#session.onClosed((why) => settle(() => reject(why)));
      const onAbort = () => {
        settle(() => reject(signal?.reason));
        void this.#session.close();
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#open();
    });
  }

  #open(): void {
    this.#connections += 1;
    this.#lastError = undefined;
    const will = this.#options.will?.(this.#connections);
    const { open } = this.#options;
    const settings = clientOptions(this.#options, this.#address, will);
    const client = open === undefined ? mqtt.connect(settings) : new MqttClient(open, settings);
    this.#client = client;
    // Nagle's algorithm costs 90 ms a round trip; mqtt.js does not turn it off, `ws` does.
    (client.stream as Partial<Socket>).setNoDelay?.(true);
    client.on("connect", () => this.#onConnect(client));
    client.on("error", (error) => {
      this.#lastError = error;
    });
    client.on("close", () => this.#onClose(client));
    client.on("message", (topic, payload, packet) => {
      const message = { topic, bytes: payload, retained: packet.retain };
      this.#session.arrived(message, packet.qos);
    });
    this.#countControl(client);
  }

  #onConnect(client: MqttClient): void {
    if (client !== this.#client || this.#session.closed) {
      return;
    }
    this.#connectedAtMs = this.#clock.now();
    if (this.#failures > 0) {
      this.#options.log(`connected to ${this.#address.shown} again`);
    }
    void this.#session.opened(createConnection(client), this.#connections);
  }

  #onClose(client: MqttClient): void {
    if (client !== this.#client) {
      return;
    }
    this.#client = undefined;
    const lastedMs = this.#clock.now() - (this.#connectedAtMs ?? this.#clock.now());
    this.#connectedAtMs = undefined;
    this.#failures = lastedMs >= stableAfterMs ? 1 : this.#failures + 1;
    if (this.#session.closed) {
      return;
    }
    this.#session.lost();
    const final = finalRefusal(this.#lastError, this.#options.clientId, this.#address.shown);
    if (final !== undefined) {
      this.#session.failed(final);
      return;
    }
    this.#retry();
  }

  #retry(): void {
    const random = this.#options.random ?? Math.random;
    const delayMs = backOffMs(this.#options.backOff ?? defaultBackOff, this.#failures, random);
    const { shown } = this.#address;
    const next = `next try in ${(delayMs / 1000).toFixed(1)} s`;
    this.#options.log(`${passingTrouble(this.#lastError, shown)}; ${next}`);
    this.#cancelRetry = this.#clock.after(delayMs, () => this.#open());
  }

  #stop(): void {
    this.#cancelRetry();
    if (this.#client?.connected === false) {
      this.#client.end(true);
    }
  }

  #countControl(client: MqttClient): void {
    const { traffic } = this.#session;
    client.on("packetsend", (packet) => {
      if (packet.cmd === "connect") {
        traffic.countControl("sent", connectBytes(this.#options, client.options.will));
      } else if (packet.cmd === "subscribe") {
        const filters = packet.subscriptions.map(({ topic }) => 3 + Buffer.byteLength(topic));
        traffic.countControl("sent", packetBytes(2 + sum(filters)));
      } else if (packet.cmd !== "publish") {
        traffic.countControl("sent", packet.cmd === "puback" ? 4 : 2);
      }
    });
    client.on("packetreceive", (packet) => {
      if (packet.cmd !== "publish") {
        traffic.countControl("received", packetBytes(packet.length ?? 0));
      }
    });
  }
}

function createConnection(client: MqttClient): Connection {
  return {
    publish: ({ topic, bytes, qos, retain }) =>
      new Promise((resolve) => {
        const payload = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
        client.publish(topic, payload, { qos, retain }, (error) => {
          // An error means the connection ended first: the session sends it again on the next one.
          if (error === undefined || error === null) {
            resolve();
          }
        });
      }),
    subscribe: (filter) =>
      new Promise((resolve) => {
        client.subscribe(filter, { qos: 1 }, (error, _granted, packet) => {
          if (packet !== undefined) {
            resolve(error === null && packet.granted.every((code) => Number(code) < 0x80));
          }
        });
      }),
    unsubscribe: (filter) =>
      new Promise((resolve) => {
        client.unsubscribe(filter, () => resolve());
      }),
    end: (will) => endClient(client, will),
  };
}

const connectTimeoutMs = 10_000;

/** Says goodbye so that the broker discards the will, but waits for a dead network only this long. */
const goodbyeMs = 1000;

function endClient(client: MqttClient, will: "discard" | "publish"): Promise<void> {
  return new Promise((resolve) => {
    client.once("close", () => resolve());
    const cut = () => {
      client.stream.destroy();
      client.end(true);
      resolve();
    };
    if (will === "publish" || !client.connected) {
      cut();
      return;
    }
    const timer = setTimeout(cut, goodbyeMs);
    client.once("close", () => clearTimeout(timer));
    // Nothing is waited for: the session has rejected what was under way. `end` would wait for its PUBACK.
    client.outgoing = {};
    client.end();
  });
}

function clientOptions(
  options: MqttOptions,
  address: BrokerAddress,
  will: LastWill | undefined,
): IClientOptions {
  const username = options.username ?? address.username;
  const password = options.password ?? address.password;
  return {
    protocol: address.protocol,
    ...placeOf(address),
    port: address.port,
    clientId: options.clientId,
    protocolVersion: 4,
    clean: true,
    resubscribe: false,
    reconnectPeriod: 0,
    queueQoSZero: false,
    connectTimeout: connectTimeoutMs,
    keepalive: options.keepaliveSeconds ?? 30,
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...(options.ca === undefined ? {} : { ca: options.ca }),
    ...(options.cert === undefined ? {} : { cert: options.cert }),
    ...(options.key === undefined ? {} : { key: options.key }),
    ...(will === undefined
      ? {}
      : { will: { topic: will.topic, payload: Buffer.from(will.bytes), qos: 1, retain: true } }),
  };
}

/** For a WebSocket mqtt.js puts a URL together again, in which an IPv6 address needs its brackets. */
function placeOf({ host, path }: BrokerAddress): Partial<IClientOptions> {
  if (path === undefined) {
    return { hostname: host, host };
  }
  const name = host.includes(":") ? `[${host}]` : host;
  const wsOptions = { perMessageDeflate: false, handshakeTimeout: connectTimeoutMs };
  return { hostname: name, host: name, path, wsOptions };
}

/** MQTT 3.1.1 section 3.1: ten bytes of protocol name, level, flags and keepalive, then length-prefixed fields. */
function connectBytes(options: MqttOptions, will: IClientOptions["will"]): number {
  const address = parseBrokerUrl(options.url);
  const fields = [
    options.clientId,
    options.username ?? address.username,
    options.password ?? address.password,
    will?.topic,
    will?.payload,
  ];
  const lengths = fields.map((field) => (field === undefined ? 0 : 2 + Buffer.byteLength(field)));
  return packetBytes(10 + sum(lengths));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
