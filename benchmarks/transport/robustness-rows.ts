// Studies `malformed`, `idle-device` and `soak`: what strangers send, what a device takes that has nothing to do, and half an
// hour in which everything breaks.
import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Row } from "../row.ts";
import { memoryOf, openFleetGround, startCoordinatorProcess } from "./fleet-ground.ts";
import { tryMalformed } from "./malformed.ts";
import { soak } from "./soak.ts";
import { commandOf, type StudyOptions } from "./study.ts";

/** A hundred thousand cases, seeded. */
export async function malformedRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const { tried, failures, peakResidentBytes } = await tryMalformed({
    cases: 100_000,
    seed: 1,
    log,
  });
  for (const failure of failures.slice(0, 20)) log(failure);
  const command = commandOf("malformed");
  const row = { spread: 0, command };
  return [
    {
      ...row,
      figure: "hostile frames, envelopes and MQTT packets tried",
      value: tried,
      unit: "",
      mustReach: { relation: ">=", limit: 100_000 },
    },
    {
      ...row,
      figure: "of them without a coded error, or after which an honest peer was not served",
      value: failures.length,
      unit: "",
      mustReach: { relation: "<=", limit: 0 },
    },
    {
      ...row,
      figure: "memory at its highest meanwhile",
      value: peakResidentBytes / 1e6,
      unit: "MB",
    },
  ];
}

/** V8 hands pages back some time after the start. */
const settleMs = 60_000;

/** `trifold device` that has joined and waits for a round. */
export async function idleDeviceRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const ground = await openFleetGround(2, 1);
  const coordinator = await startCoordinatorProcess(ground);
  const data = join(ground.folder, "data.csv");
  const rows = Array.from({ length: 40 }, (_, i) =>
    i % 2 === 0 ? "the sea,sea" : "the land,land",
  );
  await writeFile(data, `text,label\n${rows.join("\n")}\n`);
  const program = fileURLToPath(new URL("../../apps/cli.js", import.meta.url));
  const flags = [
    "--broker",
    coordinator.url,
    "--id",
    "idle",
    "--data",
    data,
    "--state",
    join(ground.folder, "state"),
  ];
  const device = spawn(process.execPath, [program, "device", ...flags], {
    stdio: ["ignore", "ignore", "ignore"],
  });
  await coordinator.allReady(1);
  await sleep(settleMs);
  const { nowBytes, peakBytes } = memoryOf(device.pid ?? 0);
  log(
    `resident ${(nowBytes / 1e6).toFixed(1)} MB, at its highest ${(peakBytes / 1e6).toFixed(1)} MB`,
  );
  device.kill("SIGKILL");
  coordinator.process.kill("SIGKILL");
  await coordinator.finished.catch(() => {});
  await ground.close();
  return [
    {
      figure: "idle device process, resident a minute after it joined",
      value: nowBytes / 1e6,
      unit: "MB",
      mustReach: { relation: "<=", limit: 110 },
      spread: 0,
      command: commandOf("idle-device"),
    },
  ];
}

/** Small federations of every framework under seeded faults. */
export async function soakRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const { faults, byKind, roundsClosed, roundsLost, wrongNumbers } = await soak({
    minutes: 30,
    seed: 1,
    log,
  });
  const kinds = Object.entries(byKind).map(([kind, times]) => `${times} x ${kind}`);
  log(`${roundsClosed} rounds; ${kinds.join(", ")}`);
  const row = { unit: "", spread: 0, command: commandOf("soak") };
  const none = { relation: "<=", limit: 0 } as const;
  return [
    {
      ...row,
      figure: "faults injected in a soak of 30 minutes",
      value: faults,
      mustReach: { relation: ">=", limit: 200 },
    },
    { ...row, figure: "rounds lost in it", value: roundsLost, mustReach: none },
    {
      ...row,
      figure: "federations with other numbers in it",
      value: wrongNumbers,
      mustReach: none,
    },
  ];
}
