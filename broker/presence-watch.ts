// Following the presence of others.
import { isLate, type PeerStatus, readStatus } from "./status.ts";
import { parseTopic, type Topics } from "./topics.ts";
import type { Log, Transport } from "./transport/transport.ts";

/** What the coordinator knows of the devices. */
export interface PresenceWatch {
  readonly devices: ReadonlyMap<string, PeerStatus>;
  close(): void;
}

/** Follows the status of every device; `onChange` gets undefined when a device's status was erased. */
export async function watchPresence(options: {
  readonly transport: Transport;
  readonly topics: Topics;
  readonly onChange: (deviceId: string, status: PeerStatus | undefined) => void;
  readonly log: Log;
}): Promise<PresenceWatch> {
  const { transport, topics, onChange, log } = options;
  const devices = new Map<string, PeerStatus>();
  const close = await transport.subscribe(topics.everyDeviceStatus, (message) => {
    const parsed = parseTopic(message.topic);
    if (parsed?.kind !== "device") {
      return;
    }
    const { deviceId } = parsed;
    if (message.bytes.byteLength === 0) {
      devices.delete(deviceId);
      onChange(deviceId, undefined);
      return;
    }
    const status = readStatus(message, log);
    if (status !== undefined && !isLate(status, devices.get(deviceId))) {
      devices.set(deviceId, status);
      onChange(deviceId, status);
    }
  });
  return { devices, close };
}

/** Follows one peer's status, such as the coordinator's. */
export function watchPeer(options: {
  readonly transport: Transport;
  readonly topic: string;
  readonly onChange: (status: PeerStatus | undefined) => void;
  readonly log: Log;
}): Promise<() => void> {
  let known: PeerStatus | undefined;
  return options.transport.subscribe(options.topic, (message) => {
    const isErased = message.bytes.byteLength === 0;
    const status = isErased ? undefined : readStatus(message, options.log);
    if (isErased || (status !== undefined && !isLate(status, known))) {
      known = status;
      options.onChange(status);
    }
  });
}
