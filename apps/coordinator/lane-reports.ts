// What devices said at the end of their lanes: a report of each one, or the code of the error with which they gave it up.
import type { Envelope } from "../../broker/index.ts";
import {
  type DeviceRoundReport,
  failedSchema,
  readFields,
  reportSchema,
} from "../control-messages.ts";
import type { DeskOptions } from "./course.ts";

/** Names a lane of any device. */
export function laneKey(deviceId: string, lane: number): string {
  return `${deviceId} ${lane}`;
}

/** Reports and failures of lanes. */
export class LaneReports {
  /** By `laneKey`. */
  readonly reports = new Map<string, DeviceRoundReport>();
  /** Code of the error with which a device gave its lane up, by device id. */
  readonly failures = new Map<string, string>();
  readonly #options: Pick<DeskOptions, "folder" | "onEvent">;
  /** Lanes that delivered and whose report may come yet. */
  readonly #awaited = new Set<string>();

  constructor(options: Pick<DeskOptions, "folder" | "onEvent">) {
    this.#options = options;
  }

  /** The report of this lane is welcome though it is not its device's current one. */
  await(deviceId: string, lane: number): void {
    this.#awaited.add(laneKey(deviceId, lane));
  }

  /** Journals a report; gives false for one that is here already or that nobody waits for. */
  async take(
    deviceId: string,
    request: Envelope,
    { isCurrent }: { readonly isCurrent: boolean },
  ): Promise<boolean> {
    const { folder, onEvent } = this.#options;
    const key = laneKey(deviceId, request.lane);
    if (this.reports.has(key) || !(isCurrent || this.#awaited.has(key))) return false;
    const report = readFields(request, reportSchema);
    await folder.journal.append({ kind: "report", deviceId, lane: request.lane, report });
    this.reports.set(key, report);
    onEvent({ kind: "reported", deviceId, report });
    return true;
  }

  /** Notes a failure; gives what it was, for people. */
  takeFailure(deviceId: string, request: Envelope): string {
    const { code, message } = readFields(request, failedSchema);
    this.failures.set(deviceId, code);
    return `${code}: ${message}`;
  }
}
