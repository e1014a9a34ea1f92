// Who may publish and subscribe to what. Pure; enforced by the embedded broker, and the template for an
// access list of any other. A refusal is a text that says why, for the log.
import { coordinatorId, isDashboard, isDeviceId, parseTopic } from "./topics.ts";

/** Who a connection is. */
export interface Identity {
  readonly clientId: string;
  /** Proven by a password or a certificate; absent on a loopback listener without either, where the client id decides. */
  readonly username?: string;
  /** Serial number of the certificate, in lower case. */
  readonly serial?: string;
}

/** Why something is not allowed. */
export type Refusal = string;

/** Undefined when this identity may connect. A device's client id is its user name, so that none can take over another's. */
export function refuseConnect({ clientId, username }: Identity): Refusal | undefined {
  const name = username ?? clientId;
  if (name === coordinatorId) {
    return undefined;
  }
  if (!isDeviceId(name)) {
    return `${JSON.stringify(name.slice(0, 80))} is not a device id`;
  }
  return clientId === name
    ? undefined
    : `the user ${name} must use its own name as client id, not ${JSON.stringify(clientId.slice(0, 80))}`;
}

/** Undefined when this identity may publish to `topic`: a device to its own status, up and probe, the coordinator to all of ours. */
export function refusePublish(identity: Identity, topic: string): Refusal | undefined {
  const parsed = parseTopic(topic);
  if (parsed === undefined) {
    return "the topic is not one of trifold's";
  }
  if (nameOf(identity) === coordinatorId) {
    return undefined;
  }
  if (isDashboard(nameOf(identity))) {
    return "a dashboard publishes nothing";
  }
  if (parsed.kind === "coordinator" || parsed.deviceId !== nameOf(identity)) {
    return "a device publishes only under its own id";
  }
  return parsed.channel === "down"
    ? "only the coordinator publishes to a device's down"
    : undefined;
}

/** Undefined when this identity may read `filter`: a device its own down, status and probe and the coordinator's status, a dashboard every status. */
export function refuseSubscribe(identity: Identity, filter: string): Refusal | undefined {
  if (nameOf(identity) === coordinatorId) {
    return undefined;
  }
  if (isDashboard(nameOf(identity))) {
    return isStatusFilter(filter) ? undefined : "a dashboard reads statuses only";
  }
  // Wildcards do not parse, so a device gets none.
  const parsed = parseTopic(filter);
  if (parsed === undefined) {
    return "a device subscribes to its own topics, without wildcards";
  }
  if (parsed.kind === "coordinator") {
    return undefined;
  }
  if (parsed.deviceId !== nameOf(identity)) {
    return "a device reads only topics under its own id";
  }
  return parsed.channel === "up" ? "only the coordinator reads a device's up" : undefined;
}

/** Statuses of one federation or of all, of one device or of all. */
function isStatusFilter(filter: string): boolean {
  return /^trifold\/1\/[^/#]+\/(coordinator|devices\/[^/#]+)\/status$/.test(filter);
}

function nameOf({ clientId, username }: Identity): string {
  return username ?? clientId;
}
