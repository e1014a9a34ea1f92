// Which topic carries what: trifold/1/<federation>/... where 1 is the wire version. Pure.
import { brokerErrors } from "./errors.ts";

/** Ids become topics, file names and HTML. */
export const idPattern = /^[A-Za-z0-9_-]{1,64}$/;

/** The coordinator's client id and user name; no device may be called so. */
export const coordinatorId = "coordinator";

/**
 * What a topic of a device carries: presence (retained JSON), messages to and from the coordinator, and what
 * the device sends itself to time its link.
 */
export type DeviceChannel = (typeof channels)[number];

const channels = ["status", "up", "down", "probe"] as const;

/** A topic taken apart. */
export type ParsedTopic =
  | {
      readonly kind: "device";
      readonly federation: string;
      readonly deviceId: string;
      readonly channel: DeviceChannel;
    }
  | { readonly kind: "coordinator"; readonly federation: string; readonly channel: "status" };

/** The topics of one federation. */
export interface Topics {
  readonly coordinatorStatus: string;
  /** Filter over the status of every device. */
  readonly everyDeviceStatus: string;
  device(deviceId: string, channel: DeviceChannel): string;
}

/** Topics of `federation`; throws `BROKER_ID_INVALID` for ids that cannot be one level of a topic. */
export function topicsOf(federation: string): Topics {
  const root = `trifold/1/${checkId("federation", federation)}`;
  return {
    coordinatorStatus: `${root}/coordinator/status`,
    everyDeviceStatus: `${root}/devices/+/status`,
    device: (deviceId, channel) => `${root}/devices/${checkDeviceId(deviceId)}/${channel}`,
  };
}

/** What a topic means, or undefined when it is none of ours. */
export function parseTopic(topic: string): ParsedTopic | undefined {
  const [name, version, federation = "", group, ...rest] = topic.split("/");
  if (name !== "trifold" || version !== "1" || !idPattern.test(federation)) {
    return undefined;
  }
  if (group === "coordinator") {
    const isStatus = rest.length === 1 && rest[0] === "status";
    return isStatus ? { kind: "coordinator", federation, channel: "status" } : undefined;
  }
  const [deviceId = "", channel] = rest;
  if (group !== "devices" || rest.length !== 2 || !isDeviceId(deviceId) || !isChannel(channel)) {
    return undefined;
  }
  return { kind: "device", federation, deviceId, channel };
}

/** Whether `id` may name a device. */
export function isDeviceId(id: string): boolean {
  return idPattern.test(id) && id !== coordinatorId;
}

/** Whether a name is that of a client which only shows: `dashboard`, or one that begins with `dashboard-`. */
export function isDashboard(name: string): boolean {
  return name === "dashboard" || name.startsWith("dashboard-");
}

/** Returns `id`, or throws `BROKER_ID_INVALID`. */
export function checkDeviceId(id: string): string {
  if (id === coordinatorId || isDashboard(id)) {
    throw brokerErrors.error("BROKER_ID_INVALID", `the device id "${id}" is reserved`, {
      hint: "choose another id for this device",
    });
  }
  return checkId("device", id);
}

/** Returns `id`, or throws `BROKER_ID_INVALID`; `what` names its use. */
export function checkId(what: string, id: string): string {
  if (!idPattern.test(id)) {
    throw brokerErrors.error(
      "BROKER_ID_INVALID",
      `the ${what} id ${JSON.stringify(id.slice(0, 80))} does not match ${idPattern.source}`,
      { hint: "use 1 to 64 letters, digits, dashes or underscores" },
    );
  }
  return id;
}

/** Whether an MQTT filter matches a topic (MQTT 3.1.1 section 4.7). */
export function matchesFilter(filter: string, topic: string): boolean {
  if (filter === topic) {
    return true;
  }
  const wanted = filter.split("/");
  const levels = topic.split("/");
  // [MQTT-4.7.2-1]: a filter that starts with a wildcard does not match $-topics.
  if (topic.startsWith("$") && (wanted[0] === "+" || wanted[0] === "#")) {
    return false;
  }
  const depth = wanted.indexOf("#");
  const compared = depth === -1 ? wanted : wanted.slice(0, depth);
  return (
    (depth === -1 ? levels.length === wanted.length : levels.length >= depth) &&
    compared.every((level, index) => level === "+" || level === levels[index])
  );
}

function isChannel(channel: string | undefined): channel is DeviceChannel {
  return channels.some((known) => known === channel);
}
