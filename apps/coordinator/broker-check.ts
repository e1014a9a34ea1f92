// Whether a broker that is not ours keeps strangers from commanding devices: tried, not asked.
import { randomBytes } from "node:crypto";
import { connectMqtt, type Transport, topicsOf } from "../../broker/index.ts";
import { coordinatorErrors } from "./errors.ts";

/** The broker, as the coordinator that is connected to it sees it. */
export interface CheckedBroker {
  readonly url: string;
  readonly federation: string;
  /** The coordinator's. */
  readonly transport: Transport;
  /** PEM of the authority that the broker's certificate is from. */
  readonly ca?: string;
}

/**
 * Connects as a stranger with nothing to prove and publishes a command for a device that does not exist. Throws
 * `BROKER_OPEN` if the command arrives. A broker that asks for a password but has no rules for those who know one is
 * not found out: nobody here knows a device's password.
 */
export async function checkBroker({
  url,
  federation,
  transport,
  ca,
}: CheckedBroker): Promise<void> {
  const id = randomBytes(8).toString("hex");
  const topic = topicsOf(federation).device(`nobody-${id}`, "down");
  const marks = { stranger: `stranger ${id}`, own: `own ${id}` };
  const arrived = new Set<string>();
  let ownArrived = () => {};
  const isOver = new Promise<void>((resolve) => {
    ownArrived = resolve;
  });
  const unsubscribe = await transport.subscribe(topic, ({ bytes }) => {
    const text = Buffer.from(bytes).toString("latin1");
    arrived.add(text);
    if (text === marks.own) ownArrived();
  });
  try {
    await publishAsStranger(url, ca, `stranger-${id}`, topic, marks.stranger);
    // The broker has dealt with the stranger's message, so it would have come before this one.
    await transport.publish(topic, Buffer.from(marks.own));
    await isOver;
  } finally {
    unsubscribe();
  }
  if (!arrived.has(marks.stranger)) return;
  throw coordinatorErrors.error(
    "BROKER_OPEN",
    "the broker let a client without a password or certificate publish commands to a device",
    {
      hint: "Give the broker passwords or client certificates and access rules (docs/brokers.md; `trifold keys acl` writes them), or --trust-broker in a closed lab.",
    },
  );
}

/** Done when the broker has acknowledged or refused: the connection, or what was published over it. */
async function publishAsStranger(
  url: string,
  ca: string | undefined,
  clientId: string,
  topic: string,
  text: string,
): Promise<void> {
  const refused = new AbortController();
  const place = new URL(url);
  place.username = "";
  place.password = "";
  try {
    const stranger = await connectMqtt({
      url: place.href,
      clientId,
      ...(ca === undefined ? {} : { ca }),
      signal: AbortSignal.any([refused.signal, AbortSignal.timeout(patienceMs)]),
      // Its first line says that the connection was refused or cut; it would be tried again.
      log: () => refused.abort(),
    });
    const { signal } = refused;
    await stranger.publish(topic, Buffer.from(text), { signal }).finally(() => stranger.close());
  } catch {
    // Not let in, or thrown out: what is hoped for. The coordinator itself is connected, so the broker is there.
  }
}

/** A broker may also say nothing to strangers. */
const patienceMs = 10_000;
