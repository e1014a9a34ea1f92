// Whether a broker that is not ours keeps others than the coordinator from commanding devices: tried, not asked.
import { randomBytes } from "node:crypto";
import { connectMqtt, type Transport, topicsOf } from "../../broker/index.ts";
import type { ConnectionSecrets } from "../connection.ts";
import { withPatience } from "../patience.ts";
import { coordinatorErrors } from "./errors.ts";

/** The broker, as the coordinator that is connected to it sees it. */
export interface CheckedBroker {
  readonly url: string;
  readonly federation: string;
  /** The coordinator's. */
  readonly transport: Transport;
  /** PEM of the authority that the broker's certificate is from. */
  readonly ca?: string;
  /** Password, or certificate and key, of the device `visitor`: one like all others that nobody is. */
  readonly visitor?: ConnectionSecrets;
  readonly log: (message: string) => void;
}

/** Id, user name and certificate name of the device that a coordinator plays to learn what devices may do. */
export const visitorId = "visitor";

/**
 * Publishes a command for a device that does not exist, as a stranger with nothing to prove and, where its secrets are known, as
 * the device `visitor`. Throws `BROKER_OPEN` if either arrives.
 */
export async function checkBroker(checked: CheckedBroker): Promise<void> {
  const { url, ca, visitor, log } = checked;
  const place = new URL(url);
  place.username = "";
  place.password = "";
  const common = { url: place.href, ...(ca === undefined ? {} : { ca }) };
  const id = randomBytes(8).toString("hex");
  const stranger = await tryCommand(checked, { ...common, clientId: `stranger-${id}` });
  if (stranger === "commanded") {
    throw open("a client without a password or certificate");
  }
  if (visitor === undefined) {
    log(`what a known device may do at the broker was not tried: no secret of "${visitorId}"`);
    return;
  }
  const known = await tryCommand(checked, {
    ...common,
    clientId: visitorId,
    username: visitorId,
    ...visitor,
  });
  if (known === "commanded") {
    throw open(`the device "${visitorId}"`);
  }
  if (known === "not let in") {
    log(`what a known device may do at the broker was not tried: "${visitorId}" was not let in`);
  }
}

function open(who: string) {
  return coordinatorErrors.error(
    "BROKER_OPEN",
    `the broker let ${who} publish commands to another device`,
    {
      hint: "Give the broker passwords or client certificates and access rules (docs/brokers.md; `trifold keys acl` writes them), or --trust-broker in a closed lab.",
    },
  );
}

type Outcome = "not let in" | "let in" | "commanded";

type Suspect = ConnectionSecrets & { readonly url: string; readonly clientId: string };

async function tryCommand(
  { federation, transport }: CheckedBroker,
  suspect: Suspect,
): Promise<Outcome> {
  const mark = randomBytes(8).toString("hex");
  const topic = topicsOf(federation).device(`nobody-${mark}`, "down");
  const arrived = new Set<string>();
  let ownArrived = () => {};
  const isOver = new Promise<void>((resolve) => {
    ownArrived = resolve;
  });
  const unsubscribe = await transport.subscribe(topic, ({ bytes }) => {
    const text = Buffer.from(bytes).toString("latin1");
    arrived.add(text);
    if (text === "own") ownArrived();
  });
  try {
    const isLetIn = await publishAs(suspect, topic, mark);
    // The broker has dealt with the suspect's message, so it would have come before this one.
    await transport.publish(topic, Buffer.from("own"));
    await isOver;
    if (arrived.has(mark)) return "commanded";
    return isLetIn ? "let in" : "not let in";
  } finally {
    unsubscribe();
  }
}

/** Whether the broker let it in. Done when the broker has acknowledged or refused: the connection, or what was published over it. */
async function publishAs(suspect: Suspect, topic: string, text: string): Promise<boolean> {
  const refused = new AbortController();
  let isLetIn = false;
  try {
    const { signal } = refused;
    const client = await withPatience(signal, patienceMs, (patience) =>
      // Its first line says that the connection was refused or cut; it would be tried again.
      connectMqtt({ ...suspect, signal: patience, log: () => refused.abort() }),
    );
    isLetIn = true;
    await client.publish(topic, Buffer.from(text), { signal }).finally(() => client.close());
  } catch {
    // Not let in, or thrown out: what is hoped for. The coordinator itself is connected, so the broker is there.
  }
  return isLetIn;
}

/** A broker may also say nothing to strangers. */
const patienceMs = 10_000;
