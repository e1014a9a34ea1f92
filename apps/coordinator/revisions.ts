// What devices showed in a run's rounds, from the journal and as it goes on, and what becomes of their assignments.
import { isDeepStrictEqual } from "node:util";
import {
  type AnyProtocol,
  type Assignment,
  assignDevice,
  type DeviceOffer,
  labelOf,
  type Revision,
  type RoundExperience,
  revise,
  type Selection,
  type Task,
  wayOf,
} from "../../protocols/index.ts";
import type { DeviceRoundReport } from "../control-messages.ts";
import type { OnEvent } from "./events.ts";
import type { Fleet, ReadyDevice } from "./fleet.ts";
import type { Journal, JournalRecord } from "./journal.ts";
import type { AttemptOutcome } from "./pace.ts";

/** The rounds of every device. */
export interface Revisions {
  /** What a device that joins does: with rounds behind it, what these leave of its assignment. */
  assign(offer: DeviceOffer): Selection;
  /** Notes what devices made of lanes that have ended. */
  note(round: number, outcome: Pick<AttemptOutcome, "lanes">): Promise<void>;
  /** Label of the way in which the device's last accepted round was done. */
  lastAccepted(deviceId: string): string | undefined;
  /** Looks at every ready device again and writes down and announces what changes. */
  revise(fleet: Fleet, round: number): Promise<void>;
}

/** A device's part in a round. */
interface LivedRound {
  readonly round: number;
  readonly assignment: Assignment;
  readonly isAccepted: boolean;
  /** It may come after the round was closed. */
  readonly report: () => DeviceRoundReport | undefined;
  /** Code of the error with which it gave the round up. */
  readonly failure?: string | undefined;
}

/** What revisions are made with. */
export interface RevisionsOptions {
  readonly task: Task;
  readonly protocols: readonly AnyProtocol[];
  readonly journal: Journal;
  readonly onEvent: OnEvent;
}

/** Goes on from what the journal holds. */
export function createRevisions({
  task,
  protocols,
  journal,
  onEvent,
}: RevisionsOptions): Revisions {
  const lives = new Map<string, LivedRound[]>();
  const currents = new Map<string, Assignment>();
  const note = (lived: LivedRound): void => {
    const { deviceId } = lived.assignment;
    currents.set(deviceId, lived.assignment);
    lives.set(deviceId, [...(lives.get(deviceId) ?? []), lived]);
  };
  const historyOf = (deviceId: string) => (lives.get(deviceId) ?? []).map(experienceOf);
  const revised = (offer: DeviceOffer, current: Assignment): Revision =>
    revise(protocols, task, { offer, current, history: historyOf(offer.deviceId) });
  for (const lived of livedRounds(journal.records)) note(lived);
  for (const record of journal.records) {
    if (record.kind === "revised") currents.set(record.deviceId, record.assignment);
  }
  const reassign = async (fleet: Fleet, device: ReadyDevice, round: number): Promise<void> => {
    const { id: deviceId, offer, assignment: current } = device;
    const { assignment, selection, profile, change } = revised(offer, current);
    if (change.kind === "kept") onEvent({ kind: "kept", deviceId, because: change.because });
    if (change.kind !== "moved") {
      if (!isDeepStrictEqual(assignment, current))
        fleet.reassign(deviceId, { assignment, selection, profile });
      return;
    }
    const [from, to] = [labelOf(current), labelOf(assignment)];
    const { because } = change;
    await journal.append({ kind: "revised", round, deviceId, assignment, from, because });
    currents.set(deviceId, assignment);
    fleet.reassign(deviceId, { assignment, selection, profile });
    onEvent({ kind: "revised", deviceId, round, from, to, because });
  };
  return {
    note: async (round, { lanes }) => {
      for (const { lane, report, isAccepted, isLate = false, failure } of lanes) {
        const { assignment, info } = lane;
        const { deviceId } = assignment;
        const isMissed = failure !== undefined || isLate;
        if (!isAccepted && !isMissed) continue;
        note({ round, assignment, isAccepted, failure, report });
        if (isAccepted) continue;
        const failed = failure === undefined ? {} : { failure };
        await journal.append({ kind: "missed", round, deviceId, lane: info.lane, ...failed });
      }
    },
    assign: (offer) => {
      const current = currents.get(offer.deviceId);
      if (!current || !task.selection.revisit) return assignDevice(protocols, task, offer);
      return revised(offer, current).selection;
    },
    lastAccepted: (deviceId) => {
      const done = historyOf(deviceId).findLast(({ kind }) => kind === "done");
      return done && labelOf(done);
    },
    revise: async (fleet, round) => {
      if (!task.selection.revisit) return;
      for (const device of [...fleet.ready.values()]) {
        if (historyOf(device.id).length > 0) await reassign(fleet, device, round);
      }
    },
  };
}

function experienceOf(lived: LivedRound): RoundExperience {
  const { round, assignment, isAccepted, failure } = lived;
  const basis = { protocol: assignment.protocol, ...wayOf(assignment), round };
  if (!isAccepted && failure !== undefined) return { ...basis, kind: "failed", code: failure };
  if (!isAccepted) return { ...basis, kind: "late" };
  const report = lived.report();
  if (!report) return { ...basis, kind: "done", figures: {} };
  const { peakMemoryBytes, uplinkBytes, downlinkBytes, trainSeconds: seconds, state } = report;
  const bytes = uplinkBytes + downlinkBytes;
  const figures = { peakMemoryBytes, uplinkBytes, downlinkBytes, bytes, seconds };
  return { ...basis, kind: "done", figures, ...(state ? { state } : {}) };
}

/** Every device's part in the rounds of a journal, in their order. */
function livedRounds(records: readonly JournalRecord[]): readonly LivedRound[] {
  const assignments = new Map<string, Assignment>();
  const reports = new Map<string, DeviceRoundReport>();
  for (const record of records) {
    if (record.kind === "lane") assignments.set(keyOf(record), record.assignment);
    else if (record.kind === "report") reports.set(keyOf(record), record.report);
  }
  const livedIn = (key: string, round: number, isAccepted: boolean): LivedRound[] => {
    const assignment = assignments.get(key);
    return assignment ? [{ round, assignment, isAccepted, report: () => reports.get(key) }] : [];
  };
  return records.flatMap((record) => {
    if (record.kind === "missed") {
      const { round, failure } = record;
      return livedIn(keyOf(record), round, false).map((lived) => ({ ...lived, failure }));
    }
    if (record.kind !== "closed") return [];
    return Object.entries(record.accepted).flatMap(([deviceId, lane]) =>
      livedIn(keyOf({ deviceId, lane }), record.round, true),
    );
  });
}

function keyOf({ deviceId, lane }: { readonly deviceId: string; readonly lane: number }): string {
  return `${deviceId} ${lane}`;
}
