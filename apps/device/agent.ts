// The device program: connects, says what it is, prepares for the task it is told, runs the rounds it is
// told to run, until it is told that the task is finished or its owner stops it.
import { randomBytes } from "node:crypto";
import {
  announcePresence,
  connectMqtt,
  type MqttOptions,
  type Presence,
  type PresenceIdentity,
  presenceWill,
  systemClock,
  type Transport,
  topicsOf,
} from "../../broker/index.ts";
import type { BoardLoad, DeviceProfile } from "../../devices/index.ts";
import { defaultHeartbeatMs, type Heartbeat, withHeartbeat } from "../heartbeat.ts";
import { packageVersion } from "../package-root.ts";
import { watchCoordinator } from "./coordinator-watch.ts";
import { nextStartCount } from "./start-count.ts";
import { openStation, type Station, type StationOptions } from "./station.ts";

/** How a device takes part. */
export interface AgentOptions
  extends Omit<StationOptions, "transport" | "profile" | "onFinished" | "onUnfit" | "onActivity"> {
  /** What the board is, its link measured over the connection. */
  readonly profileOver: (transport: Transport) => Promise<DeviceProfile>;
  readonly broker: Pick<MqttOptions, "url" | "username" | "password" | "ca" | "cert" | "key">;
  /** Reads what the board has to do; absent where the profile is declared. */
  readonly readLoad?: () => Promise<BoardLoad>;
  /** Time between two heartbeats of its status, 30 s when left out. */
  readonly heartbeatMs?: number;
  /** Ends taking part; what was uploaded stays counted. */
  readonly signal: AbortSignal;
}

/**
 * Takes part until the task is finished. Rejects with the signal's reason when stopped, and when going on is
 * pointless: `DEVICE_ID_IN_USE`, credentials withdrawn, or a model or data that cannot serve the task
 * (`DEVICE_MODEL_MISSING`, `DATA_*`).
 */
export async function runAgent(options: AgentOptions): Promise<void> {
  const { deviceId, federation, broker, profileOver, places, signal, log } = options;
  const identity: PresenceIdentity = {
    topic: topicsOf(federation).device(deviceId, "status"),
    instance: randomBytes(8).toString("hex"),
    counter: await nextStartCount(places.stateFolder, deviceId),
    version: packageVersion(),
  };
  const will = presenceWill(identity);
  const transport = await connectMqtt({ ...broker, clientId: deviceId, will, signal, log });
  const { promise: ended, resolve: finish, reject: fail } = deferred();
  const stop = () => fail(signal.reason);
  signal.addEventListener("abort", stop, { once: true });
  transport.onClosed((reason) => reason && fail(reason));
  // Failing before anyone waits for the end must not count as unhandled.
  ended.catch(() => {});
  let presence: Presence | undefined;
  let station: Station | undefined;
  let unwatch = () => {};
  try {
    const profile = await profileOver(transport);
    const board = profile.board.model;
    const onActivity = (activity: string) => {
      presence
        ?.update({ board, activity })
        .catch((error: Error) => log(`status not shown: ${error.message}`));
    };
    const ends = { onFinished: finish, onUnfit: fail };
    station = await openStation({ ...options, ...ends, profile, transport, onActivity });
    const details = { board, activity: "idle" };
    const announced = await announcePresence({
      transport,
      identity,
      details,
      onReplaced: fail,
      log,
    });
    const { task } = station;
    unwatch = await watchCoordinator({ transport, federation, task, onFinished: finish, log });
    const read = heartbeatOf({ ...options, transport, station });
    const intervalMs = options.heartbeatMs ?? defaultHeartbeatMs;
    presence = withHeartbeat({
      presence: announced,
      details,
      intervalMs,
      read,
      clock: systemClock,
      log,
    });
    await ended;
  } finally {
    signal.removeEventListener("abort", stop);
    unwatch();
    // Freeing the model takes a moment, and the broker may be gone by then.
    const closing = station?.close();
    await presence?.close();
    await transport.close();
    await closing;
  }
}

/** How the device is now; of the board itself only where it is measured and not declared. */
function heartbeatOf({
  transport,
  station,
  readLoad,
}: Pick<AgentOptions, "readLoad"> & {
  readonly transport: Transport;
  readonly station: Station;
}): () => Promise<Heartbeat> {
  return async () => {
    const [queued, open] = [transport.queue(), station.queue()];
    return {
      ...(await readLoad?.()),
      queuedMessages: queued.messages,
      queuedBytes: queued.bytes,
      openRequests: open.messages,
      openRequestBytes: open.bytes,
    };
  };
}

function deferred() {
  let resolve = () => {};
  let reject = (_reason: unknown) => {};
  const promise = new Promise<void>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve: () => resolve(), reject: (reason: unknown) => reject(reason) };
}
