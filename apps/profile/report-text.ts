// The profile and the selection as tables for people.
import {
  acceleratorOf,
  type DeviceProfile,
  type Figure,
  formatQuantity,
  type Unit,
} from "../../devices/index.ts";
import { type CandidateVerdict, type FigureName, labelOf } from "../../protocols/index.ts";
import type { ProviderReport } from "../../runtime/index.ts";
import { textTable } from "../text-table.ts";
import type { ProfileReport } from "./report.ts";

/** Every figure with its origin, then every candidate with its cost or the limits that it breaks. */
export function profileText({ profile, providers = [], task, selection }: ProfileReport): string {
  const { assignment, table } = selection;
  const head = ["framework", "", "memory", "up", "down", "seconds", "why not"];
  const decision = assignment
    ? `-> ${assignment.reason}`
    : "-> nothing fits; raise a limit or ask less of a round";
  return [
    profile.board.model,
    textTable(["figure", "value", "origin"], figureRows(profile), { right: [1] }),
    ...providerLines(profile, providers),
    "",
    `A round of task "${task.name}" (order: ${task.order.join(", ")}):`,
    textTable(head, table.map(candidateRow), { right: [2, 3, 4, 5] }),
    decision,
  ].join("\n");
}

/** What computes here, what does not and why, and what it takes to use the board's GPU while it does not. */
function providerLines(
  { board, providers: used }: DeviceProfile,
  tried: readonly ProviderReport[],
): readonly string[] {
  const failed = tried.filter(({ works }) => !works);
  const gpu = used.includes("cuda") ? undefined : acceleratorOf(board);
  return [
    `computes on: ${used.join(", ")}`,
    ...failed.map(({ name, reason }) => `not on ${name}: ${reason}`),
    ...(gpu ? [`${gpu.name}, compute capability ${gpu.computeCapability}: ${gpu.note}`] : []),
  ];
}

function figureRows(profile: DeviceProfile): string[][] {
  const { memory, cores, gemmFlopsPerSecond, link, power, temperatureCelsius } = profile;
  const rows: readonly (readonly [string, Figure | undefined, Unit])[] = [
    ["memory", memory.totalBytes, "bytes"],
    ["memory available", memory.availableBytes, "bytes"],
    ["memory limit", memory.limitBytes, "bytes"],
    ["cores", cores, "cores"],
    ["matrix products", gemmFlopsPerSecond, "flopsPerSecond"],
    ["uplink", link.uplinkBitsPerSecond, "bitsPerSecond"],
    ["downlink", link.downlinkBitsPerSecond, "bitsPerSecond"],
    ["round trip", link.roundTripMs, "milliseconds"],
    ["power, idle", power?.idleWatts, "watts"],
    ["power, busy", power?.activeWatts, "watts"],
  ];
  const cells = rows.flatMap(([name, figure, unit]) =>
    figure === undefined ? [] : [[name, formatQuantity(figure.value, unit), figure.origin]],
  );
  if (temperatureCelsius !== undefined) {
    const { value, origin } = temperatureCelsius;
    cells.push(["temperature", `${value.toFixed(1)} °C`, origin]);
  }
  return cells;
}

function candidateRow({ candidate, feasible, figures, rejections }: CandidateVerdict): string[] {
  const shown = (name: FigureName) => {
    const figure = figures.find((one) => one.name === name);
    return figure?.value === undefined ? "?" : formatQuantity(figure.value, figure.unit);
  };
  return [
    labelOf(candidate),
    feasible ? "fits" : "no",
    shown("peakMemoryBytes"),
    shown("uplinkBytes"),
    shown("downlinkBytes"),
    shown("seconds"),
    rejections.map(({ text }) => text).join("; "),
  ];
}
