// Studies `idle-fleet`, `large-round` and `resend`: many simulated devices at a coordinator in a process of its own.
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { openCheckpoints } from "../../apps/coordinator/checkpoints.ts";
import { type JournalRecord, journalFile, readJournal } from "../../apps/coordinator/journal.ts";
import { startBroker } from "../../broker/index.ts";
import { decodeUpdate, initialOf, type Task } from "../../protocols/index.ts";
import type { Row } from "../row.ts";
import {
  type CoordinatorProcess,
  openFleetGround,
  preparedUpdate,
  startCoordinatorProcess,
} from "./fleet-ground.ts";
import { type SimulatedDevice, startSimulatedDevice } from "./simulated-device.ts";
import { commandOf, type StudyOptions } from "./study.ts";

const idsOf = (count: number) =>
  Array.from({ length: count }, (_, i) => `d${String(i).padStart(4, "0")}`);

/** A thousand devices that are announced, described and told the task, and wait. */
export async function idleFleetRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const count = 1000;
  const ground = await openFleetGround(count + 1, 1);
  const coordinator = await startCoordinatorProcess(ground);
  const update = preparedUpdate();
  const started = performance.now();
  const devices = await Promise.all(
    idsOf(count).map((id, i) =>
      startSimulatedDevice({ url: coordinator.url, id, update: (task) => update(task, i) }),
    ),
  );
  await coordinator.allReady(count);
  const seconds = (performance.now() - started) / 1000;
  log(`${count} devices in ${seconds.toFixed(1)} s`);
  await sleep(5000);
  const { nowBytes } = coordinator.memory();
  coordinator.process.kill("SIGKILL");
  await coordinator.finished.catch(() => {});
  // They would look for their coordinator for ever.
  await Promise.all(devices.map((device) => device.close().catch(() => {})));
  await ground.close();
  const command = commandOf("idle-fleet");
  return [
    {
      figure: "devices announced and idle on one coordinator: 1,000 of them in",
      value: seconds,
      unit: "s",
      mustReach: { relation: "<=", limit: 10 },
      spread: 0,
      command,
    },
    {
      figure: "coordinator and broker with them, resident",
      value: nowBytes / 1e6,
      unit: "MB",
      mustReach: { relation: "<=", limit: 400 },
      spread: 0,
      command,
    },
  ];
}

/** A round of so many devices whose updates come all at once. */
export async function largeRoundRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const peaks = new Map<number, number>();
  let lost = 0;
  for (const count of [100, 1000]) {
    const round = await playRound(count);
    log(
      `${count} devices: ${round.seconds.toFixed(0)} s, peak ${(round.peakBytes / 1e6).toFixed(0)} MB`,
    );
    peaks.set(count, round.peakBytes);
    lost += round.lost;
  }
  const command = commandOf("large-round");
  const more = (peaks.get(1000) ?? Number.NaN) - (peaks.get(100) ?? Number.NaN);
  return [
    {
      figure: "simulated round of 1,000 full devices, 325 kB updates: updates lost or wrong",
      value: lost,
      unit: "",
      mustReach: { relation: "<=", limit: 0 },
      spread: 0,
      command,
    },
    {
      figure: "coordinator and broker at their highest, 1,000 devices",
      value: (peaks.get(1000) ?? Number.NaN) / 1e6,
      unit: "MB",
      spread: 0,
      command,
    },
    {
      figure: "each device beyond the first 100 adds (its update is 325 kB)",
      value: more / 1e3 / 900,
      unit: "kB",
      spread: 0,
      command,
    },
  ];
}

async function playRound(count: number) {
  const ground = await openFleetGround(count, 1);
  const coordinator = await startCoordinatorProcess(ground);
  const update = preparedUpdate();
  let task: Task | undefined;
  const started = performance.now();
  let peakBytes = 0;
  const watch = setInterval(() => {
    peakBytes = Math.max(peakBytes, peakOf(coordinator));
  }, 200);
  const devices = await Promise.all(
    idsOf(count).map((id, i) =>
      startSimulatedDevice({
        url: coordinator.url,
        id,
        update: (told) => {
          task = told;
          return update(told, i);
        },
      }),
    ),
  );
  await coordinator.finished;
  clearInterval(watch);
  const seconds = (performance.now() - started) / 1000;
  const records = await readJournal(journalFile(join(ground.folder, "run")));
  const closed = records.find((record) => record.kind === "closed");
  const accepted = Object.keys(closed?.kind === "closed" ? closed.accepted : {}).length;
  const isRight = task !== undefined && (await isMean(ground.folder, task, count, update));
  await Promise.all(devices.map((device) => device.close().catch(() => {})));
  await ground.close();
  return { seconds, peakBytes, lost: count - accepted + (isRight ? 0 : 1) };
}

function peakOf(coordinator: CoordinatorProcess): number {
  try {
    return coordinator.memory().peakBytes;
  } catch {
    // It has just ended.
    return 0;
  }
}

/** Whether the global model is the start and the mean of the updates, which are as many twice u as minus u. */
async function isMean(
  folder: string,
  task: Task,
  count: number,
  update: ReturnType<typeof preparedUpdate>,
): Promise<boolean> {
  const global = await (await openCheckpoints(join(folder, "run"))).read(1);
  const start = initialOf(task);
  const shapes = new Map([...start].map(([name, { shape }]) => [name, shape]));
  const [even, odd] = [0, 1].map((i) => decodeUpdate(update(task, i).tensors, shapes));
  const evenShare = Math.ceil(count / 2) / count;
  return [...global.parameters].every(([name, { data }]) =>
    data.every((value, i) => {
      const at = (values: typeof even) => values?.get(name)?.data[i] ?? Number.NaN;
      const expected = at(start) + evenShare * at(even) + (1 - evenShare) * at(odd);
      return Math.abs(value - expected) <= 1e-6 * Math.max(1, Math.abs(expected));
    }),
  );
}

/** Devices whose uploads are journaled when the coordinator is killed: what they send of them once more. */
export async function resendRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const count = 16;
  let finishedBytes = 0;
  let againBytes = 0;
  for (const killAfter of [1, 4, 8, 12]) {
    const ground = await openFleetGround(count, 1);
    const broker = await startBroker({ log: () => {} });
    const at = `at ${broker.url}`;
    const update = preparedUpdate();
    const first = await startCoordinatorProcess(ground, at);
    const devices = new Map<string, SimulatedDevice>();
    await Promise.all(
      idsOf(count).map(async (id, i) => {
        const options = { url: broker.url, id, update: (task: Task) => update(task, i) };
        devices.set(id, await startSimulatedDevice(options));
      }),
    );
    const journal = journalFile(join(ground.folder, "run"));
    while ((await uploadsIn(journal)).length < killAfter) await sleep(2);
    first.process.kill("SIGKILL");
    await once(first.process, "exit");
    const uploaded = await uploadsIn(journal);
    const sent = (id: string) => devices.get(id)?.link.counters().sentBytes ?? 0;
    const before = new Map(uploaded.map((id) => [id, sent(id)]));
    await (await startCoordinatorProcess(ground, at)).finished;
    const uploadBytes = 4 * 81_000;
    for (const id of uploaded) {
      finishedBytes += uploadBytes;
      againBytes += sent(id) - (before.get(id) ?? 0);
    }
    log(
      `killed after ${uploaded.length} uploads: ${(againBytes / 1e3).toFixed(0)} kB sent after it so far`,
    );
    await Promise.all([...devices.values()].map((device) => device.close().catch(() => {})));
    await broker.close();
    await ground.close();
  }
  return [
    {
      figure: "finished upload bytes sent again after a coordinator kill (joining anew included)",
      value: (100 * againBytes) / finishedBytes,
      unit: "%",
      mustReach: { relation: "<=", limit: 5 },
      spread: 0,
      command: commandOf("resend"),
    },
  ];
}

/** Devices with an upload in the journal. */
async function uploadsIn(journal: string): Promise<readonly string[]> {
  const records: readonly JournalRecord[] = await readJournal(journal);
  return records.flatMap((record) => (record.kind === "upload" ? [record.deviceId] : []));
}
