// The demo's result: as JSON for programs, as tables for people, and the run's report once more, now with
// the baselines and what the figures were measured on.
import { cpus } from "node:os";
import { join } from "node:path";
import { aloneName, type BaselineScores } from "../baselines.ts";
import type { CommandResult } from "../command-result.ts";
import { journalFile, readJournal } from "../coordinator/journal.ts";
import { bytes, counted, percent } from "../report/figures.ts";
import { type RunReport, runReport } from "../report/run-report.ts";
import { writeReport } from "../report/write-report.ts";
import { textTable } from "../text-table.ts";
import { wrapText } from "../wrapped-text.ts";
import { demoBoards } from "./boards.ts";
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

/** Rewrites the run's report files and gives what the command prints. */
export async function writeDemoReport(
  result: DemoResult,
  { seed, rounds }: { readonly seed: number; readonly rounds: number },
): Promise<CommandResult> {
  const { runFolder, prepared, enforced } = result;
  const baselines = figuresOf(result.baselines);
  const report = runReport(await readJournal(journalFile(runFolder)), prepared.task, {
    baselines: [
      { name: "centralised", accuracy: baselines.centralised },
      { name: "best single device", accuracy: baselines.bestDevice },
      { name: "centralised, random base", accuracy: baselines.randomBase },
      { name: "untrained", accuracy: baselines.untrained },
    ],
    machine: `${cpus().length} x ${cpus()[0]?.model.trim() ?? "processor"}, Node ${process.version}`,
    notes: [
      `The boards are emulated: processes of one machine (limits it enforces: ${enforced}). Seconds are not those of real boards.`,
      "Every baseline was trained on as many examples as all devices saw together.",
    ],
  });
  await writeReport(runFolder, report);
  const json = demoJson(result, report, { seed, rounds });
  return { json, text: demoText(json, report) };
}

function demoJson(
  { runFolder, trainingSeconds, accuracy, baselines }: DemoResult,
  { devices }: RunReport,
  { seed, rounds }: { readonly seed: number; readonly rounds: number },
): DemoJson {
  const count = (name: string) => devices.filter(({ framework }) => framework === name).length;
  const { untrained, bestDevice, centralised, randomBase } = figuresOf(baselines);
  return {
    runFolder,
    seed,
    rounds,
    trainingSeconds,
    accuracy: { global: accuracy, untrained, bestDevice, centralised, randomBase },
    frameworks: { full: count("full"), kd: count("kd"), split: count("split") },
    devices: devices.map((device) => ({
      id: device.id,
      board: device.board,
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

/** The baselines as the demo tells them. */
function figuresOf(scores: BaselineScores) {
  const score = (name: string) => scores.get(name) ?? 0;
  return {
    untrained: score("untrained"),
    bestDevice: Math.max(...demoBoards.map(({ id }) => score(aloneName(id)))),
    centralised: score("centralised"),
    randomBase: score("randomBase"),
  };
}

function demoText(json: DemoJson, report: RunReport): string {
  const { rounds, devices, baselines = [], machine, notes = [] } = report;
  const federation = { name: "federation", accuracy: json.accuracy.global };
  const took = `${counted(json.rounds, "round")} in ${json.trainingSeconds.toFixed(1)} s on ${machine}.`;
  return [
    deviceTable(report),
    prose(...devices.map(({ id, board, reason }) => `${id} (${board}): ${reason}`)),
    textTable(
      ["accuracy on the test set", ""],
      [federation, ...baselines].map(({ name, accuracy }) => [name, percent(accuracy ?? 0)]),
      { right: [1] },
    ),
    prose(
      `Federation after each round: ${rounds.map(({ accuracy }) => percent(accuracy ?? 0)).join(", ")}.`,
      took,
      ...notes,
    ),
    [
      `adapter  ${join(json.runFolder, "adapter")}`,
      `report   ${join(json.runFolder, "report.html")}`,
    ].join("\n"),
  ].join("\n\n");
}

function prose(...lines: readonly string[]): string {
  return wrapText(lines.join("\n"), 79);
}

/** Two lines a device: what was measured, and below it the raw bytes and the estimate. Fits 80 columns. */
function deviceTable({ devices }: RunReport): string {
  const rows = devices.map((device) => [
    device.id,
    device.framework,
    `${bytes(device.uplinkBytes)}\n${bytes(device.rawUplinkBytes)}`,
    `${bytes(device.downlinkBytes)}\n${bytes(device.rawDownlinkBytes)}`,
    (device.flops / 1e9).toFixed(1),
    device.seconds.toFixed(1),
    `${bytes(device.peakMemoryBytes)}\n${device.estimate ? bytes(device.estimate.peakMemoryBytes) : "-"}`,
    device.accuracy === undefined ? "-" : percent(device.accuracy),
  ]);
  const head = [
    ...["device", "framework", "up\n(raw)", "down\n(raw)", "GFLOP", "seconds"],
    ...["peak memory\n(estimated)", "own\nhold-out"],
  ];
  return textTable(head, rows, { right: [2, 3, 4, 5, 6, 7] });
}
