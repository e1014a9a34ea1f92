// Studies `round-trip` and `bulk`: the embedded broker on loopback.
import { once } from "node:events";
import { summarise } from "../../apps/bench/statistics.ts";
import { connectMqtt, startBroker } from "../../broker/index.ts";
import type { Row } from "../row.ts";
import { joinEnds, noise, timeTransfer } from "./ends.ts";
import { commandOf } from "./study.ts";

/** A QoS 1 message of 100 bytes to the broker and back to its sender. */
export async function roundTripRows(): Promise<readonly Row[]> {
  const log = () => {};
  const broker = await startBroker({ log });
  const transport = await connectMqtt({ url: broker.url, clientId: "device", log });
  const topic = "trifold/1/main/devices/device/probe";
  const arrivals = new EventTarget();
  await transport.subscribe(topic, () => arrivals.dispatchEvent(new Event("message")));
  const times: number[] = [];
  const bytes = noise(100, 1);
  for (let i = 0; i < 3000; i += 1) {
    const started = performance.now();
    const arrived = once(arrivals, "message");
    await Promise.all([arrived, transport.publish(topic, bytes)]);
    // The first ones warm the compiler up.
    if (i >= 500) times.push(performance.now() - started);
  }
  await transport.close();
  await broker.close();
  const { median, spread } = summarise(times);
  const figure = "small QoS 1 round trip through the embedded broker, p50";
  const mustReach = { relation: "<=", limit: 1 } as const;
  const command = commandOf("round-trip");
  return [{ figure, value: median, unit: "ms", mustReach, spread, command }];
}

const bulkBytes = 48e6;

/** From the request to the answer that says that everything is there, both ends and the broker in one process. */
export async function bulkRows(): Promise<readonly Row[]> {
  const ends = await joinEnds();
  const bytes = noise(bulkBytes, 1);
  const rates: number[] = [];
  for (let i = 0; i < 6; i += 1) {
    const seconds = await timeTransfer(ends.device, bytes);
    if (i > 0) rates.push(bulkBytes / 1e6 / seconds);
  }
  await ends.close();
  const { median, spread } = summarise(rates);
  const figure = "bulk transfer through the embedded broker, acknowledged end to end, loopback";
  const mustReach = { relation: ">=", limit: 60 } as const;
  return [{ figure, value: median, unit: "MB/s", mustReach, spread, command: commandOf("bulk") }];
}
