// A status as it stands on its topic: retained JSON, readable by any MQTT tool.
import { z } from "zod";
import type { Log, TransportMessage } from "./transport/transport.ts";

/** Further members of a status, such as a profile or the progress of a run. */
export type StatusDetails = Readonly<Record<string, unknown>>;

/** A status as it stands on its topic. */
export interface PeerStatus {
  readonly state: "online" | "offline" | "lost";
  readonly instance: string;
  readonly counter: number;
  /** Of this process, from 1. */
  readonly connection: number;
  readonly version: string;
  readonly details: StatusDetails;
}

/** What a peer publishes on its own status topic to know that all that is retained there has come. */
export const ownTopicProbeSchema = z.strictObject({
  state: z.literal("probe"),
  probe: z.string().min(1).max(64),
});

/** A status as JSON; its other members are details. */
export const statusSchema = z.looseObject({
  state: z.enum(["online", "offline", "lost"]),
  instance: z.string().min(1).max(64),
  counter: z.int().nonnegative(),
  connection: z.int().positive(),
  version: z.string().max(64),
});

const maxStatusBytes = 64 * 1024;

/** The bytes of a status. */
export function encodeStatus({ details, ...status }: PeerStatus): Uint8Array {
  return Buffer.from(JSON.stringify({ ...details, ...status }));
}

/** The status in a message; undefined, with a line in the log, when it is none and not a peer's question to itself. */
export function readStatus({ topic, bytes }: TransportMessage, log: Log): PeerStatus | undefined {
  const json = bytes.byteLength <= maxStatusBytes ? parseJson(bytes) : undefined;
  const result = statusSchema.safeParse(json);
  if (!result.success) {
    if (!ownTopicProbeSchema.safeParse(json).success) {
      log(`ignored a status on ${topic} that is not one`);
    }
    return undefined;
  }
  const { state, instance, counter, connection, version, ...details } = result.data;
  return { state, instance, counter, connection, version, details };
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString("utf8"));
  } catch {
    return undefined;
  }
}

/** Whether this is what the process of that instance asks its own topic. */
export function isProbe({ bytes, retained }: TransportMessage, instance: string): boolean {
  const json = retained || bytes.byteLength > 200 ? undefined : parseJson(bytes);
  return (json as { probe?: unknown } | null | undefined)?.probe === instance;
}

/** Whether a goodbye belongs to an earlier connection than the one that stands. */
export function isLate(status: PeerStatus, known: PeerStatus | undefined): boolean {
  if (known === undefined || status.state === "online") {
    return false;
  }
  if (status.instance === known.instance) {
    return status.connection < known.connection;
  }
  return known.state === "online" || status.counter < known.counter;
}
