// Who is there. Each peer keeps one retained JSON status: `online` from its connection, `offline` after a clean
// stop, and `lost`, which the broker publishes as last will. Readable by any MQTT tool.
import type { TrifoldError } from "../runtime/index.ts";
import { brokerErrors } from "./errors.ts";
import {
  encodeStatus,
  isProbe,
  type PeerStatus,
  readStatus,
  type StatusDetails,
} from "./status.ts";
import { parseTopic } from "./topics.ts";
import type { Log, Transport, TransportMessage, WillOf } from "./transport/transport.ts";

/** A peer's process, as its status names it. */
export interface PresenceIdentity {
  /** Own status topic. */
  readonly topic: string;
  /** Random, of this process: tells it from a rival with the same id. */
  readonly instance: string;
  /** Rises with every start of the program on this machine, kept on disk: ties a late will to its process. */
  readonly counter: number;
  /** Of the program. */
  readonly version: string;
}

/** The last will to connect with: `lost`, numbered like the connection it belongs to. */
export function presenceWill(identity: PresenceIdentity): WillOf {
  return (connection) => ({
    topic: identity.topic,
    bytes: encodeStatus({ ...bare(identity), state: "lost", connection, details: {} }),
  });
}

/** Own presence. */
export interface Presence {
  /** Publishes other details. */
  update(details: StatusDetails): Promise<void>;
  /** Publishes `offline` if connected, with these last details. Call before closing the transport. Safe to call twice. */
  close(details?: StatusDetails): Promise<void>;
}

/** How to be present. */
export interface PresenceOptions {
  /** Connected with `presenceWill(identity)`. */
  readonly transport: Transport;
  readonly identity: PresenceIdentity;
  readonly details?: StatusDetails;
  /** Another live process has taken this id over (`DEVICE_ID_IN_USE`): stop, without a word on the topic. */
  readonly onReplaced: (reason: TrifoldError) => void;
  readonly log: Log;
}

/** Publishes `online` now and after each reconnect. Resolves once it stands; call before the first message. */
export async function announcePresence(options: PresenceOptions): Promise<Presence> {
  const presence = new StandingPresence(options);
  await presence.start();
  return presence;
}

class StandingPresence implements Presence {
  readonly #options: PresenceOptions;
  #details: StatusDetails;
  /** Instances that stood on the topic before this process did: former ones of this device. */
  readonly #former = new Set<string>();
  #hasStood = false;
  readonly #waitingForProbe = new Set<() => void>();
  #ended = false;
  #stops: (() => void)[] = [];

  constructor(options: PresenceOptions) {
    this.#options = options;
    this.#details = options.details ?? {};
  }

  /**
   * Rivals with one id take the connection from each other without end. What is retained tells them apart:
   *   1. A stands; B connects, and the broker drops A and publishes A's will;
   *   2. B reads it before it stands itself, so A is a former process to B; B stands;
   *   3. A reconnects and reads B, which was not there before A stood: A has been replaced and stops;
   *   4. B, dropped by 3, reconnects, reads itself and stands again.
   * Reading comes before standing because one's own status would hide the rival's.
   */
  async start(): Promise<void> {
    const { transport, identity } = this.#options;
    const { topic } = identity;
    this.#stops.push(await transport.subscribe(topic, (message) => this.#read(message)));
    this.#stops.push(transport.onConnected(() => this.#standLater()));
    await this.#stand();
  }

  async update(details: StatusDetails): Promise<void> {
    this.#details = details;
    if (!this.#ended) {
      await this.#publish("online");
    }
  }

  async close(details: StatusDetails = {}): Promise<void> {
    if (this.#ended) {
      return;
    }
    this.#end();
    this.#details = details;
    if (this.#options.transport.connected) {
      const signal = AbortSignal.timeout(goodbyeMs);
      await this.#publish("offline", signal).catch((error: Error) => {
        this.#options.log(`left without saying so: ${error.message}`);
      });
    }
  }

  #end(): void {
    this.#ended = true;
    for (const stop of this.#stops) {
      stop();
    }
  }

  async #stand(): Promise<void> {
    await this.#readRetained();
    if (!this.#ended) {
      this.#hasStood = true;
      await this.#publish("online");
    }
  }

  /** The broker sends what it retains before it forwards this, which nobody else takes for a status. */
  #readRetained(): Promise<void> {
    const { transport, identity } = this.#options;
    const probe = Buffer.from(JSON.stringify({ state: "probe", probe: identity.instance }));
    return new Promise((resolve, reject) => {
      this.#waitingForProbe.add(resolve);
      transport.publish(identity.topic, probe).catch(reject);
    });
  }

  #standLater(): void {
    this.#stand().catch((error: TrifoldError) => {
      if (!this.#ended && error.code !== "LINK_CLOSED") {
        this.#options.log(`cannot announce ${this.#options.identity.topic}: ${error.message}`);
      }
    });
  }

  #read(message: TransportMessage): void {
    const { identity, log } = this.#options;
    if (isProbe(message, identity.instance)) {
      for (const resolve of this.#waitingForProbe) {
        resolve();
      }
      this.#waitingForProbe.clear();
      return;
    }
    const status = message.bytes.byteLength === 0 ? undefined : readStatus(message, log);
    if (status === undefined || this.#ended) {
      return;
    }
    const isOwn = status.instance === identity.instance;
    if (!isOwn && !this.#hasStood) {
      this.#former.add(status.instance);
    } else if (!isOwn && this.#isRival(status)) {
      this.#replaced(status);
    } else if (status.state === "lost" && !message.retained && this.#hasStood) {
      // A will of a former connection or process arrived after this one stood.
      this.#standLater();
    }
  }

  /** A process that was not there before and has not left on its own, or one that came back. */
  #isRival({ instance, state }: PeerStatus): boolean {
    return state === "online" || (state === "lost" && !this.#former.has(instance));
  }

  #replaced(rival: PeerStatus): void {
    this.#end();
    const { topic } = this.#options.identity;
    const id = parseTopic(topic)?.kind === "device" ? this.#options.transport.clientId : topic;
    this.#options.onReplaced(
      brokerErrors.error(
        "DEVICE_ID_IN_USE",
        `another process (instance ${rival.instance.slice(0, 64)}) has taken over the id ${id}`,
        { hint: "give each device an id of its own, or stop the other process" },
      ),
    );
  }

  #publish(state: "online" | "offline", signal?: AbortSignal): Promise<void> {
    const { transport, identity } = this.#options;
    const { connection } = transport;
    const details = this.#details;
    const bytes = encodeStatus({ ...bare(identity), state, connection, details });
    const stopping = signal === undefined ? {} : { signal };
    return transport.publish(identity.topic, bytes, { retain: true, ...stopping });
  }
}

/** A dead network does not keep a program from stopping. */
const goodbyeMs = 2000;

function bare({ instance, counter, version }: PresenceIdentity) {
  return { instance, counter, version };
}
