// Runs one attempt of a round: opens a lane for every ready device, passes its messages on, and ends when
// the state machine of `protocols/round.ts` says so.
import type { Envelope, Reply } from "../../broker/index.ts";
import {
  type Assignment,
  advance,
  type GlobalModel,
  openRound,
  protocolErrors,
  type RoundDecision,
  type RoundEvent,
  type RoundState,
  type Task,
} from "../../protocols/index.ts";
import {
  type DeviceRoundReport,
  failedSchema,
  readFields,
  reportSchema,
} from "../control-messages.ts";
import type { OnEvent } from "./events.ts";
import type { Fleet, ReadyDevice } from "./fleet.ts";
import { type JournaledLane, type LaneDevice, noted, openJournaledLane } from "./open-lane.ts";
import type { RecordedLane, RunPosition } from "./recovery.ts";
import { createRoundChanges } from "./round-changes.ts";
import type { RunFolder } from "./run-folder.ts";
import type { Servers } from "./servers.ts";

/** What an attempt runs with. */
export interface AttemptOptions {
  readonly task: Task;
  readonly folder: RunFolder;
  readonly fleet: Fleet;
  readonly servers: Servers;
  readonly global: GlobalModel;
  readonly position: RunPosition;
  /** Highest lane number of each device; raised here. */
  readonly lastLanes: Map<string, number>;
  readonly acceptedLanes: ReadonlyMap<string, number>;
  readonly signal: AbortSignal;
  readonly onEvent: OnEvent;
  readonly log: (message: string) => void;
}

/** How an attempt ended. */
export interface AttemptOutcome {
  readonly decision: Exclude<RoundDecision, { kind: "wait" }>;
  /** Every lane that was opened, by device id; the caller closes them. */
  readonly lanes: ReadonlyMap<string, JournaledLane>;
  readonly reports: ReadonlyMap<string, DeviceRoundReport>;
}

/** Runs the attempt that `position` names. Rejects with the signal's reason when the run is stopped. */
export async function runAttempt(options: AttemptOptions): Promise<AttemptOutcome> {
  const { fleet, task, signal } = options;
  const attempt = new Attempt(options);
  fleet.listen({
    onReady: (device) => void attempt.enter(device),
    onGone: (deviceId) => void attempt.lose(deviceId, "the connection was lost"),
    onRequest: (deviceId, request, aborted) => attempt.take(deviceId, request, aborted),
  });
  await attempt.restore();
  for (const device of fleet.ready.values()) void attempt.enter(device);
  const decision = await attempt.changes.decision(() => attempt.state, task.cohort, signal);
  for (const { inbox } of fleet.ready.values()) inbox.close();
  return { decision, lanes: attempt.lanes, reports: attempt.reports };
}

class Attempt {
  readonly lanes = new Map<string, JournaledLane>();
  readonly reports = new Map<string, DeviceRoundReport>();
  readonly changes = createRoundChanges();
  state: RoundState;
  readonly #options: AttemptOptions;

  constructor(options: AttemptOptions) {
    this.#options = options;
    this.state = openRound(options.position.round, options.position.attempt);
  }

  /** Opens again the lanes of an interrupted attempt that outlive the coordinator's process. */
  async restore(): Promise<void> {
    const { position, fleet } = this.#options;
    for (const recorded of position.lanes.values()) {
      const { deviceId, lane, assignment, resumable, result, report } = recorded;
      // A device that is there comes back by itself; the round waits for it.
      if (fleet.isOnline(deviceId)) this.#note({ kind: "joined", deviceId });
      if (!resumable && !result) continue;
      await this.#open(assignment, lane, { recorded });
      if (report) this.reports.set(deviceId, report);
      if (report || result || !fleet.isOnline(deviceId)) await this.#settle(deviceId);
    }
  }

  /** Starts a device, or starts it again after it came back. */
  async enter(device: ReadyDevice): Promise<void> {
    if (this.state.lanes.get(device.id) === "delivered") return;
    this.#note({ kind: "joined", deviceId: device.id });
    try {
      await this.#start(device, await this.#laneFor(device));
    } catch (error) {
      if (!this.#options.signal.aborted) await this.lose(device.id, messageOf(error));
    }
  }

  /** What was delivered counts, even if its report is lost with the device. */
  async lose(deviceId: string, reason: string): Promise<void> {
    if (!this.state.lanes.has(deviceId) || (await this.#settle(deviceId))) return;
    this.#options.onEvent({ kind: "lost", deviceId, reason });
    this.#note({ kind: "lost", deviceId });
  }

  /** A lane message, a report or a failure of a device. */
  async take(deviceId: string, request: Envelope, signal: AbortSignal): Promise<Reply> {
    const { fleet, onEvent } = this.#options;
    if (request.kind === "report") {
      await this.#takeReport(deviceId, request);
      return noted;
    }
    if (request.kind === "failed") {
      const { code, message } = readFields(request, failedSchema);
      await this.lose(deviceId, `${code}: ${message}`);
      return noted;
    }
    const device = fleet.ready.get(deviceId);
    const lane = this.lanes.get(deviceId);
    if (!device || !lane) {
      throw protocolErrors.error(
        "PROTOCOL_OUT_OF_TURN",
        `device ${deviceId} has no lane in this round`,
      );
    }
    return device.inbox.accept(request, async (payload, sequence) => {
      const answer = await lane.process(payload, sequence, signal);
      onEvent({ kind: "progress", deviceId, messages: sequence });
      return answer;
    });
  }

  /** The lane that survived a restart, or a new one. */
  async #laneFor(device: ReadyDevice): Promise<JournaledLane> {
    const { id, assignment } = device;
    const { position, lastLanes } = this.#options;
    const known = this.lanes.get(id);
    if (known && position.lanes.get(id)?.lane === known.info.lane) return known;
    await known?.close();
    const lane = (lastLanes.get(id) ?? 0) + 1;
    lastLanes.set(id, lane);
    return this.#open(assignment, lane, { device: laneDevice(device) });
  }

  async #open(
    assignment: Assignment,
    lane: number,
    origin: { readonly recorded: RecordedLane } | { readonly device: LaneDevice },
  ): Promise<JournaledLane> {
    const { task, folder, position, servers, global } = this.#options;
    const { round, attempt } = position;
    const { protocol, server } = await servers.get(assignment.protocol, assignment.protocolVersion);
    const info = { round, attempt, lane, globalStep: (round - 1) * task.training.localSteps };
    const opened = await openJournaledLane({
      folder,
      protocol,
      server,
      assignment,
      info,
      global,
      ...origin,
    });
    this.lanes.set(assignment.deviceId, opened);
    return opened;
  }

  async #start({ id, inbox, link }: ReadyDevice, lane: JournaledLane): Promise<void> {
    const { task, acceptedLanes, onEvent, signal } = this.#options;
    const { globalStep, ...place } = lane.info;
    const { deviceId: _, ...assignment } = lane.assignment;
    const { tensors, blobs = new Map(), ...payload } = lane.first;
    inbox.open(place, lane.progress);
    onEvent({ kind: "started", deviceId: id, lane: place.lane, protocol: assignment.protocol });
    const acceptedLane = acceptedLanes.get(id) ?? 0;
    const fields = { ...assignment, globalStep, acceptedLane, payload };
    await link.request(
      { ...place, kind: "start", task: task.name, fields, tensors, blobs },
      { signal },
    );
  }

  async #takeReport(deviceId: string, request: Envelope): Promise<void> {
    const { folder, onEvent } = this.#options;
    if (this.lanes.get(deviceId)?.info.lane !== request.lane || this.reports.has(deviceId)) return;
    const report = readFields(request, reportSchema);
    await folder.journal.append({ kind: "report", deviceId, lane: request.lane, report });
    this.reports.set(deviceId, report);
    onEvent({ kind: "reported", deviceId, report });
    await this.lose(deviceId, "it reported without delivering");
  }

  /** Notes a delivery if there is one. */
  async #settle(deviceId: string): Promise<boolean> {
    if ((await this.lanes.get(deviceId)?.result()) === undefined) return false;
    this.#note({ kind: "delivered", deviceId });
    return true;
  }

  #note(event: RoundEvent): void {
    this.state = advance(this.state, event);
    this.changes.announce();
  }
}

function laneDevice({ profile, selection }: ReadyDevice): LaneDevice {
  const chosen = selection.table.find(({ feasible }) => feasible);
  return { board: profile.board.model, estimate: chosen?.candidate.cost };
}

function messageOf(error: unknown): string {
  const { code, message = String(error) } = error as { code?: string; message?: string };
  return code === undefined ? message : `${code}: ${message}`;
}
