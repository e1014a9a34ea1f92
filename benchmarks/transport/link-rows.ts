// Studies `goodput`, `loss` and `control`: links of a given rate, round trip and loss (slow-link.ts).
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { pairedRatios, summarise } from "../../apps/bench/statistics.ts";
import type { Row } from "../row.ts";
import { joinEnds, type Network, noise, startSlowLinkThread, timeTransfer } from "./ends.ts";
import { commandOf, type StudyOptions } from "./study.ts";

const roundTripMs = 50;

/** Megabits a second, and megabytes of a transfer of a few seconds. */
const goodputs = [
  [1, 2],
  [10, 12],
  [100, 50],
] as const;

/** Share of the line rate that reaches the other end, from a cold start. */
export async function goodputRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const [megabits, megabytes] of goodputs) {
    const shares: number[] = [];
    for (let i = 0; i < 3; i += 1) {
      const seconds = await transfer({ bitsPerSecond: 1e6 * megabits, roundTripMs }, megabytes);
      shares.push((100 * 8 * megabytes) / seconds / megabits);
      log(`${megabits} Mbit/s: ${shares.at(-1)?.toFixed(1)} %`);
    }
    const { median, spread } = summarise(shares);
    const figure = `goodput at ${megabits} Mbit/s, RTT 50 ms, no loss, of the line rate`;
    const mustReach = { relation: ">=", limit: 85 } as const;
    rows.push({
      figure,
      value: median,
      unit: "%",
      mustReach,
      spread,
      command: commandOf("goodput"),
    });
  }
  return rows;
}

/** In turns with a bare TCP stream through the same link. */
export async function lossRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const network = { bitsPerSecond: 10e6, roundTripMs, lossFraction: 0.01 };
  const megabytes = 4;
  const bare: number[] = [];
  const ours: number[] = [];
  for (let i = 0; i < 3; i += 1) {
    bare.push(await bareStream(network, megabytes));
    ours.push(await transfer(network, megabytes));
    log(`bare ${bare.at(-1)?.toFixed(1)} s, ours ${ours.at(-1)?.toFixed(1)} s`);
  }
  const { median, spread } = summarise(pairedRatios(bare, ours).map((ratio) => 100 * ratio));
  const figure = "goodput with 1% packet loss at 10 Mbit/s, RTT 50 ms, of one bare TCP stream";
  const mustReach = { relation: ">=", limit: 85 } as const;
  return [{ figure, value: median, unit: "%", mustReach, spread, command: commandOf("loss") }];
}

/** Small requests there and back while a transfer fills the link in the same direction. */
export async function controlRows(): Promise<readonly Row[]> {
  const ends = await joinEnds({ bitsPerSecond: 1e6, roundTripMs });
  const bulk = timeTransfer(ends.device, noise(4e6, 1));
  let isRunning = true;
  const finished = bulk.finally(() => {
    isRunning = false;
  });
  const times: number[] = [];
  while (isRunning) {
    const started = performance.now();
    await ends.device.request({ kind: "control" });
    times.push(performance.now() - started);
    await sleep(200);
  }
  await finished;
  await ends.close();
  const sorted = times.toSorted((a, b) => a - b);
  const value = sorted[Math.floor(0.95 * sorted.length)];
  const figure = "control message p95 while a 4 MB transfer runs at 1 Mbit/s, RTT 50 ms";
  const mustReach = { relation: "<=", limit: 400 } as const;
  return [{ figure, value, unit: "ms", mustReach, spread: 0, command: commandOf("control") }];
}

async function transfer(network: Network, megabytes: number): Promise<number> {
  const ends = await joinEnds(network);
  try {
    return await timeTransfer(ends.device, noise(1e6 * megabytes, 1));
  } finally {
    await ends.close();
  }
}

/** Seconds until the other end of a plain TCP connection has everything and has said so. */
async function bareStream(network: Network, megabytes: number): Promise<number> {
  const total = 1e6 * megabytes;
  const server = createServer({ noDelay: true }, (socket) => {
    let received = 0;
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      received += bytes.byteLength;
      if (received >= total) socket.write("k");
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const target = (server.address() as AddressInfo).port;
  const link = await startSlowLinkThread({ ...network, target });
  const socket = connect({ port: link.port, host: "127.0.0.1", noDelay: true });
  await once(socket, "connect");
  const started = performance.now();
  socket.write(noise(total, 1));
  await once(socket, "data");
  const seconds = (performance.now() - started) / 1000;
  socket.destroy();
  await link.close();
  server.close();
  return seconds;
}
