// The demo's result: as JSON for programs, as tables for people, and as report files in the run folder.
import { cpus } from "node:os";
import { join } from "node:path";
import Table from "cli-table3";
import { formatQuantity } from "../../devices/index.ts";
import { assignDevice, builtInProtocols, type RoundCost } from "../../protocols/index.ts";
import { writeFileAtomic } from "../../runtime/index.ts";
import type { CommandResult } from "../command-result.ts";
import { readJournal } from "../coordinator/journal.ts";
import { type DeviceSummary, type RunSummary, summarise } from "../report/run-summary.ts";
import { type DemoBoard, demoBoards } from "./boards.ts";
import type { DemoResult } from "./demo.ts";

/** What `trifold demo --json` prints. Fractions are 0..1, bytes are whole numbers. */
export interface DemoJson {
  readonly runFolder: string;
  readonly seed: number;
  readonly rounds: number;
  readonly trainingSeconds: number;
  readonly accuracy: {
    readonly global: number;
    readonly untrained: number;
    readonly bestDevice: number;
    readonly centralised: number;
    readonly randomBase: number;
  };
  /** Devices by framework. */
  readonly frameworks: { readonly full: number; readonly kd: number; readonly split: number };
  readonly devices: readonly DemoDevice[];
}

/** One board's row. */
export interface DemoDevice {
  readonly id: string;
  readonly board: string;
  readonly framework: string;
  readonly reason: string;
  readonly uplinkBytes: number;
  readonly downlinkBytes: number;
  readonly rawUplinkBytes: number;
  readonly rawDownlinkBytes: number;
  readonly flops: number;
  readonly seconds: number;
  readonly peakMemoryBytes: number;
  readonly accuracy: number;
}

/** Writes report.json and report.html and gives what the command prints. */
export async function writeDemoReport(
  result: DemoResult,
  { seed, rounds }: { readonly seed: number; readonly rounds: number },
): Promise<CommandResult> {
  const summary = summarise(await readJournal(join(result.runFolder, "journal", "records.jsonl")));
  const json = demoJson(result, summary, { seed, rounds });
  const comparison = compareEstimates(result, summary);
  const machine = `${cpus().length} x ${cpus()[0]?.model.trim() ?? "processor"}, Node ${process.version}`;
  const report = {
    ...json,
    date: new Date().toISOString(),
    machine,
    limits: {
      enforced: result.enforced,
      note: "boards are emulated on this machine: seconds are not those of real boards",
    },
    roundAccuracy: summary.rounds,
    baselines: result.baselines,
    estimates: comparison,
    task: result.prepared.task,
  };
  await writeFileAtomic(
    join(result.runFolder, "report.json"),
    `${JSON.stringify(report, undefined, 2)}\n`,
  );
  const text = demoText(json, { result, summary, comparison, machine });
  return { json, text };
}

function demoJson(
  { runFolder, trainingSeconds, accuracy, baselines }: DemoResult,
  { devices }: RunSummary,
  { seed, rounds }: { readonly seed: number; readonly rounds: number },
): DemoJson {
  const count = (name: string) => devices.filter(({ framework }) => framework === name).length;
  const { untrained, bestDevice, centralised, randomBase } = baselines;
  return {
    runFolder,
    seed,
    rounds,
    trainingSeconds,
    accuracy: { global: accuracy, untrained, bestDevice, centralised, randomBase },
    frameworks: { full: count("full"), kd: count("kd"), split: count("split") },
    devices: devices.map((device) => ({
      id: device.id,
      board: boardOf(device.id)?.profile.board.model ?? device.id,
      framework: device.framework,
      reason: device.reason,
      uplinkBytes: device.uplinkBytes,
      downlinkBytes: device.downlinkBytes,
      rawUplinkBytes: device.rawUplinkBytes,
      rawDownlinkBytes: device.rawDownlinkBytes,
      flops: device.flops,
      seconds: device.seconds,
      peakMemoryBytes: device.peakMemoryBytes,
      accuracy: device.accuracy ?? 0,
    })),
  };
}

/** One device's estimate for a round beside what was measured. */
export interface EstimateRow {
  readonly id: string;
  readonly estimated: RoundCost;
  readonly measured: {
    readonly peakMemoryBytes: number;
    readonly uplinkBytes: number;
    readonly downlinkBytes: number;
    readonly flops: number;
  };
  /** measured / estimated - 1. */
  readonly memoryError: number;
}

/** The selection's estimate of each device's round beside the mean of what its rounds took. */
function compareEstimates({ prepared }: DemoResult, { devices }: RunSummary): EstimateRow[] {
  return devices.flatMap((device) => {
    const board = boardOf(device.id);
    const estimated = board ? estimateOf(board, device, prepared.task) : undefined;
    if (!estimated) return [];
    const { rounds, peakMemoryBytes, uplinkBytes, downlinkBytes, flops } = device;
    const perRound = {
      uplinkBytes: uplinkBytes / rounds,
      downlinkBytes: downlinkBytes / rounds,
      flops: flops / rounds,
    };
    const memoryError = peakMemoryBytes / estimated.peakMemoryBytes - 1;
    return [{ id: device.id, estimated, measured: { peakMemoryBytes, ...perRound }, memoryError }];
  });
}

function estimateOf(
  { id, profile, budget }: DemoBoard,
  { examples, framework, cutLayer }: DeviceSummary,
  task: DemoResult["prepared"]["task"],
): RoundCost | undefined {
  const protocols = Object.fromEntries(
    builtInProtocols.map(({ name, version }) => [name, version]),
  );
  // A fifth of a board's texts is held out: a quarter of what it trains on.
  const offer = { deviceId: id, profile, budget, holdOut: Math.floor(examples / 4), protocols };
  const { table } = assignDevice(builtInProtocols, task, offer);
  return table.find(
    ({ candidate }) => candidate.protocol === framework && candidate.cutLayer === cutLayer,
  )?.candidate.cost;
}

interface TextParts {
  readonly result: DemoResult;
  readonly summary: RunSummary;
  readonly comparison: readonly EstimateRow[];
  readonly machine: string;
}

function demoText(json: DemoJson, { result, summary, comparison, machine }: TextParts): string {
  const { accuracy } = json;
  const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
  const perRound = summary.rounds
    .map(({ round, accuracy: reached }) => `${round}: ${percent(reached)}`)
    .join("   ");
  return [
    deviceTable(json, comparison),
    `why: ${json.devices.map(({ id, reason }) => `\n  ${id}: ${reason}`).join("")}`,
    `global accuracy after round  ${perRound}`,
    `baselines on as many examples: untrained ${percent(accuracy.untrained)}, best single device ${percent(accuracy.bestDevice)}, centralised ${percent(accuracy.centralised)}, centralised on a random base ${percent(accuracy.randomBase)}`,
    `${json.rounds} rounds in ${json.trainingSeconds.toFixed(1)} s on ${machine}; limits enforced: ${result.enforced} (emulated boards)`,
    `run folder: ${json.runFolder}   adapter: ${join(json.runFolder, "adapter")}`,
  ].join("\n\n");
}

function deviceTable({ devices }: DemoJson, comparison: readonly EstimateRow[]): string {
  const table = new Table({
    head: [
      "device",
      "framework",
      "up / raw",
      "down / raw",
      "GFLOP",
      "s",
      "peak memory (estimate)",
      "accuracy",
    ],
    style: { head: [], border: [] },
  });
  const bytes = (value: number) => formatQuantity(value, "bytes");
  for (const device of devices) {
    const estimate = comparison.find(({ id }) => id === device.id)?.estimated.peakMemoryBytes;
    table.push([
      `${device.id}\n${device.board.slice(0, 28)}`,
      device.framework,
      `${bytes(device.uplinkBytes)}\n${bytes(device.rawUplinkBytes)}`,
      `${bytes(device.downlinkBytes)}\n${bytes(device.rawDownlinkBytes)}`,
      (device.flops / 1e9).toFixed(0),
      device.seconds.toFixed(1),
      `${bytes(device.peakMemoryBytes)}\n(${estimate === undefined ? "-" : bytes(estimate)})`,
      device.accuracy.toFixed(3),
    ]);
  }
  return table.toString();
}

function boardOf(id: string): DemoBoard | undefined {
  return demoBoards.find((board) => board.id === id);
}
