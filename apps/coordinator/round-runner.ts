// Runs one attempt of a round: opens a lane for every ready device, passes its messages on, and ends when
// the state machine of `protocols/round.ts` says so.
import { defaultBackOff, type Envelope, type Reply } from "../../broker/index.ts";
import {
  type Assignment,
  advance,
  chosenOf,
  type GlobalModel,
  labelOf,
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
import { errorLine } from "../error-text.ts";
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
  /** Label of the way in which a device's last accepted round was done. */
  readonly lastAccepted: (deviceId: string) => string | undefined;
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
  /** Devices that were still at work. */
  readonly late: readonly string[];
  /** Codes of the errors with which devices gave the attempt up. */
  readonly failures: ReadonlyMap<string, string>;
}

/** How long devices have to come back after a restart of this process: twice their longest wait between two tries. */
export const returnMs = 2 * defaultBackOff.maxMs;

/** Runs the attempt that `position` names. Rejects with the signal's reason when the run is stopped. */
export async function runAttempt(options: AttemptOptions): Promise<AttemptOutcome> {
  const { fleet, task, signal } = options;
  const attempt = new Attempt(options);
  const beginning = attempt.begin();
  fleet.listen({
    onReady: (device) => void attempt.enter(device),
    onGone: (deviceId) => void attempt.lose(deviceId, "the connection was lost"),
    onRequest: async (deviceId, request, aborted) => {
      await beginning;
      return attempt.take(deviceId, request, aborted);
    },
  });
  await beginning;
  const decision = await attempt.changes.decision({
    read: () => attempt.state,
    beforeDeadline: () => attempt.settleAll(),
    cohort: task.cohort,
    signal,
  });
  attempt.end();
  const { lanes, reports, failures, state } = attempt;
  const late = [...state.lanes].flatMap(([id, phase]) => (phase === "open" ? [id] : []));
  return { decision, lanes, reports, late, failures };
}

class Attempt {
  readonly lanes = new Map<string, JournaledLane>();
  readonly reports = new Map<string, DeviceRoundReport>();
  readonly failures = new Map<string, string>();
  readonly changes = createRoundChanges();
  state: RoundState;
  readonly #options: AttemptOptions;
  /** Devices may enter: what a crash left is restored, and nothing is decided yet. */
  #isOpen = false;
  /** Settles once a device's last entry has begun: what it says of a former lane is stale before that, but it does not know yet. */
  readonly #entries = new Map<string, Promise<unknown>>();
  /** Process of each device that runs its lane; undefined once it has given the lane up. */
  readonly #runners = new Map<string, string | undefined>();
  /** Lane that each device's inbox was opened for in this process. */
  readonly #inboxes = new Map<string, number>();
  #patience: NodeJS.Timeout | undefined;

  constructor(options: AttemptOptions) {
    this.#options = options;
    const { round, attempt, cohort } = options.position;
    this.state = openRound(round, attempt, cohort);
  }

  /** Restores what a crash left, then starts the devices that are ready. */
  async begin(): Promise<void> {
    await this.#restore();
    this.#isOpen = true;
    const { fleet, position } = this.#options;
    for (const device of fleet.ready.values()) void this.enter(device);
    if (position.isInterrupted) return;
    // Went while the round was being written down, when nobody listened.
    for (const deviceId of position.cohort ?? [])
      if (!fleet.ready.has(deviceId)) void this.lose(deviceId, "the connection was lost");
  }

  /** Every lane is stale from now on. */
  end(): void {
    this.#isOpen = false;
    clearTimeout(this.#patience);
    for (const { inbox } of this.#options.fleet.ready.values()) inbox.close();
  }

  /**
   * Opens again the lanes of an interrupted attempt that outlive the coordinator's process. The round waits for
   * their devices: they did not stop, come back by themselves, and have their reports to give.
   */
  async #restore(): Promise<void> {
    const { position } = this.#options;
    for (const recorded of position.lanes.values()) {
      const { deviceId, lane, assignment, resumable, result, report } = recorded;
      this.#note({ kind: "joined", deviceId });
      if (!resumable && !result) continue;
      await this.#open(assignment, lane, { recorded });
      if (!report) continue;
      this.reports.set(deviceId, report);
      await this.#settle(deviceId);
    }
    const awaited = new Set([...position.lanes.keys(), ...this.state.lanes.keys()]);
    const giveUp = () => {
      for (const deviceId of awaited)
        if (!this.#runners.has(deviceId)) void this.lose(deviceId, "it did not come back");
    };
    if (position.isInterrupted && awaited.size > 0) this.#patience = setTimeout(giveUp, returnMs);
  }

  /** Starts a device, or lets it go on after it came back. */
  async enter(device: ReadyDevice): Promise<void> {
    const { id, gone } = device;
    if (!this.#isOpen || this.#isIdle(id)) return;
    const former = this.#entries.get(id);
    const entry = this.#begin(device, former);
    const settled = entry.catch(() => {});
    this.#entries.set(id, settled);
    try {
      await entry;
    } catch (error) {
      if (this.#options.signal.aborted || gone.aborted) return;
      this.#runners.set(id, undefined);
      await this.lose(id, errorLine(error));
    }
  }

  async #begin(device: ReadyDevice, former: Promise<unknown> | undefined): Promise<void> {
    await former;
    const lane = await this.#admit(device);
    if (lane) await this.#start(device, lane);
  }

  /** A device that this round does not ask. */
  #isIdle(deviceId: string): boolean {
    const { cohort } = this.#options.position;
    return cohort !== undefined && !cohort.includes(deviceId);
  }

  /** What was delivered counts, even if its report is lost with the device. */
  async lose(deviceId: string, reason: string): Promise<void> {
    if (!this.#isOpen || !this.state.lanes.has(deviceId)) return;
    if (await this.#settle(deviceId)) return;
    this.#options.onEvent({ kind: "lost", deviceId, reason });
    this.#note({ kind: "lost", deviceId });
  }

  /** A lane message, a report or a failure of a device. */
  async take(deviceId: string, request: Envelope, signal: AbortSignal): Promise<Reply> {
    const { fleet, onEvent } = this.#options;
    await this.#entries.get(deviceId);
    if (request.kind === "report") {
      await this.#takeReport(deviceId, request);
      return noted;
    }
    if (request.kind === "failed") {
      await this.#takeFailure(deviceId, request);
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
      const answer = await lane.process(payload, sequence, signal).catch(async (error: unknown) => {
        // A coordinator that is told to stop owes no answer: the device asks the one that comes back.
        if (this.#options.signal.aborted) await aborted(signal);
        throw error;
      });
      onEvent({ kind: "progress", deviceId, messages: sequence });
      return answer;
    });
  }

  /** The lane to start the device with, its inbox open; undefined when the device has delivered. */
  async #admit(device: ReadyDevice): Promise<JournaledLane | undefined> {
    const { id, instance } = device;
    if (this.state.lanes.get(id) === "delivered") {
      // It may still wait to hear that its delivery is here, and has its report to give.
      const lane = this.lanes.get(id);
      if (lane) this.#openInbox(device, lane);
      return undefined;
    }
    this.#note({ kind: "joined", deviceId: id });
    const lane = await this.#laneFor(device);
    this.#openInbox(device, lane);
    this.#runners.set(id, instance);
    return lane;
  }

  /** An inbox that is open for this lane already knows more of it than the journal did. */
  #openInbox({ id, inbox }: ReadyDevice, { info, progress }: JournaledLane): void {
    const { globalStep: _, ...place } = info;
    if (this.#inboxes.get(id) === place.lane) return;
    inbox.open(place, progress);
    this.#inboxes.set(id, place.lane);
  }

  /** The lane that the device's process runs, one that survived a restart of this process, or a new one. */
  async #laneFor(device: ReadyDevice): Promise<JournaledLane> {
    const { id, instance, assignment } = device;
    const { position, lastLanes } = this.#options;
    const known = this.lanes.get(id);
    const isRestored = position.lanes.get(id)?.lane === known?.info.lane && !this.#runners.has(id);
    if (known && (isRestored || this.#runners.get(id) === instance)) return known;
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

  async #start({ id, link, gone }: ReadyDevice, lane: JournaledLane): Promise<void> {
    const { task, acceptedLanes, lastAccepted, onEvent, signal } = this.#options;
    const { globalStep, ...place } = lane.info;
    const { deviceId: _, ...assignment } = lane.assignment;
    const { tensors, blobs = new Map(), ...payload } = lane.first;
    onEvent({ kind: "started", deviceId: id, lane: place.lane, protocol: assignment.protocol });
    const acceptedLane = acceptedLanes.get(id) ?? 0;
    const former = lastAccepted(id);
    const isReassigned = former !== undefined && former !== labelOf(lane.assignment);
    const fields = { ...assignment, globalStep, acceptedLane, isReassigned, payload };
    await link.request(
      { ...place, kind: "start", task: task.name, fields, tensors, blobs },
      { signal: AbortSignal.any([signal, gone]) },
    );
  }

  async #takeFailure(deviceId: string, request: Envelope): Promise<void> {
    if (this.lanes.get(deviceId)?.info.lane !== request.lane) return;
    const { code, message } = readFields(request, failedSchema);
    this.#runners.set(deviceId, undefined);
    this.failures.set(deviceId, code);
    await this.lose(deviceId, `${code}: ${message}`);
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

  /** Notes what was delivered though its report is not here yet. */
  async settleAll(): Promise<void> {
    for (const deviceId of this.lanes.keys()) await this.#settle(deviceId);
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
  return { board: profile.board.model, estimate: chosenOf(selection)?.candidate.cost };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
