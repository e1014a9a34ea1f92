// The two ends of a link in this process, a broker between them, and the network that the device's end goes through.
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import {
  connectMqtt,
  coordinatorLinkTopics,
  createLink,
  deviceLinkTopics,
  type Link,
  startBroker,
  type Transport,
} from "../../broker/index.ts";
import { randomStream } from "../../runtime/index.ts";
import type { SlowLinkOptions } from "./slow-link.ts";

/** A device and a coordinator joined over the embedded broker. */
export interface Ends {
  readonly device: Link;
  readonly coordinator: Link;
  readonly transport: Transport;
  close(): Promise<void>;
}

/** What the device's end goes through; loopback alone when left out. */
export type Network = Omit<SlowLinkOptions, "target">;

const federation = "bench";
const deviceId = "device";

/** Joins both; the coordinator answers every request with nothing. */
export async function joinEnds(network?: Network): Promise<Ends> {
  const log = () => {};
  const broker = await startBroker({ log });
  const slow = network && (await startSlowLinkThread({ ...network, target: broker.port }));
  const url = slow ? `mqtt://127.0.0.1:${slow.port}` : broker.url;
  const transport = await connectMqtt({ url, clientId: deviceId, log });
  const atCoordinator = await connectMqtt({ url: broker.url, clientId: "coordinator", log });
  const coordinator = await createLink({
    transport: atCoordinator,
    federation,
    self: "coordinator",
    peer: deviceId,
    ...coordinatorLinkTopics(federation, deviceId),
    onRequest: () => Promise.resolve({ kind: "taken" }),
    log,
  });
  const ends = { self: deviceId, peer: "coordinator", ...deviceLinkTopics(federation, deviceId) };
  const device = await createLink({ transport, federation, ...ends, log });
  const close = async (): Promise<void> => {
    await Promise.all([device.close(), coordinator.close()]);
    await Promise.all([transport.close(), atCoordinator.close()]);
    await slow?.close();
    await broker.close();
  };
  return { device, coordinator, transport, close };
}

/** A slow link in a thread of its own. */
export async function startSlowLinkThread(
  options: SlowLinkOptions,
): Promise<{ readonly port: number; close(): Promise<void> }> {
  const url = new URL("./slow-link-worker.js", import.meta.url);
  const worker = new Worker(url, { workerData: options });
  const [port] = (await once(worker, "message")) as [number];
  const close = async (): Promise<void> => {
    const ended = once(worker, "exit");
    worker.postMessage("close");
    await ended;
  };
  return { port, close };
}

/** Bytes that deflate cannot shorten, the same for each seed. */
export function noise(length: number, seed: number): Uint8Array {
  const random = randomStream("transport", seed);
  const words = Uint32Array.from({ length: Math.ceil(length / 4) }, () => random.below(2 ** 32));
  return new Uint8Array(words.buffer, 0, length);
}

/** Seconds from the request to the answer that says that all of it is there. */
export async function timeTransfer(link: Link, bytes: Uint8Array): Promise<number> {
  const started = performance.now();
  await link.request({ kind: "bulk", blobs: new Map([["x", bytes]]) });
  return (performance.now() - started) / 1000;
}
