// The lanes of the devices, one current lane for each: starts a device, passes its messages on, lets it go on after a lost
// connection. When a lane begins, ends and counts is for the course to say: a round, or an asynchronous federation.
import type { Envelope, Reply } from "../../broker/index.ts";
import {
  type Assignment,
  chosenOf,
  type GlobalModel,
  type LanePhase,
  labelOf,
  protocolErrors,
  type Task,
} from "../../protocols/index.ts";
import {
  type DeviceRoundReport,
  failedSchema,
  readFields,
  reportSchema,
  type StartNews,
} from "../control-messages.ts";
import { errorLine } from "../error-text.ts";
import type { OnEvent } from "./events.ts";
import type { Fleet, ReadyDevice } from "./fleet.ts";
import { type JournaledLane, type LaneDevice, noted, openJournaledLane } from "./open-lane.ts";
import type { RecordedLane } from "./recovery.ts";
import type { RunFolder } from "./run-folder.ts";
import type { Servers } from "./servers.ts";

/** What lanes need of their run. */
export interface DeskOptions {
  readonly task: Task;
  readonly folder: RunFolder;
  readonly fleet: Fleet;
  readonly servers: Servers;
  /** Highest lane number of each device; raised here. */
  readonly lastLanes: Map<string, number>;
  /** Lane of each device that counted last, or is to; raised by the course or by the run. */
  readonly acceptedLanes: Map<string, number>;
  /** Label of the way in which a device's last accepted round was done. */
  readonly lastAccepted: (deviceId: string) => string | undefined;
  readonly signal: AbortSignal;
  readonly onEvent: OnEvent;
  readonly log: (message: string) => void;
}

/** Where a lane belongs and the model it begins with. */
export interface LaneOrigin {
  readonly round: number;
  readonly attempt: number;
  readonly global: GlobalModel;
}

/** What decides about the lanes. */
export interface Course {
  /** Whether the device takes part now. */
  asks(deviceId: string): boolean;
  phaseOf(deviceId: string): LanePhase | undefined;
  joined(deviceId: string): void;
  lost(deviceId: string): void;
  /** Resolves once it is on the disk that the lane counts, or does not. Called once for each lane. */
  delivered(deviceId: string, lane: JournaledLane): Promise<void>;
  /** Where a lane that begins now belongs; may wait for a fold under way. */
  origin(): Promise<LaneOrigin>;
  /** Whether a device that has delivered and reported begins its next lane at once, its phase forgotten by `released`. */
  readonly goesOn: boolean;
  released(deviceId: string): void;
  /** What a device is told beside its start. */
  newsFor(deviceId: string): StartNews;
}

/** Names a lane of any device. */
export function laneKey(deviceId: string, lane: number): string {
  return `${deviceId} ${lane}`;
}

/** The devices' lanes at the coordinator. */
export class LaneDesk {
  /** Current lane of each device. */
  readonly lanes = new Map<string, JournaledLane>();
  /** By `laneKey`. */
  readonly reports = new Map<string, DeviceRoundReport>();
  /** Codes of the errors with which devices gave their lane up. */
  readonly failures = new Map<string, string>();
  readonly #options: DeskOptions;
  readonly #course: Course;
  /** Devices may enter: what a crash left is restored, and nothing is decided yet. */
  #isOpen = false;
  /** Settles once a device's last entry has begun: what it says of a former lane is stale before that, but it does not know yet. */
  readonly #entries = new Map<string, Promise<unknown>>();
  /** Process of each device that runs its lane; undefined once it has given the lane up. */
  readonly #runners = new Map<string, string | undefined>();
  /** Lane that each device's inbox was opened for in this process. */
  readonly #inboxes = new Map<string, number>();
  /** Lanes that were restored from the journal: their devices' processes may still run them. */
  readonly #restored = new Map<string, number>();
  /** Lanes that delivered and whose report may come yet. */
  readonly #unreported = new Set<string>();

  constructor(options: DeskOptions, course: Course) {
    this.#options = options;
    this.#course = course;
  }

  /** Hears the fleet once what `restoring` does is done, then starts the devices that are ready. */
  async open(restoring: () => Promise<void>): Promise<void> {
    const { fleet } = this.#options;
    const begin = async () => {
      await restoring();
      this.#isOpen = true;
      for (const device of fleet.ready.values()) void this.enter(device);
    };
    const beginning = begin();
    fleet.listen({
      onReady: (device) => void this.enter(device),
      onGone: (deviceId) => void this.lose(deviceId, "the connection was lost"),
      onRequest: async (deviceId, request, aborted) => {
        await beginning;
        return this.take(deviceId, request, aborted);
      },
    });
    await beginning;
  }

  /** Every lane is stale from now on. */
  end(): void {
    this.#isOpen = false;
    for (const { inbox } of this.#options.fleet.ready.values()) inbox.close();
  }

  /**
   * Opens a lane again that outlives the coordinator's process: its device did not stop, comes back by itself, and has
   * its report to give. One that lived in memory only is begun anew.
   */
  async restore(recorded: RecordedLane, origin: LaneOrigin): Promise<void> {
    const { deviceId, lane, resumable, result, report } = recorded;
    this.#course.joined(deviceId);
    if (!resumable && !result) return;
    this.lanes.set(deviceId, await this.reopen(recorded, origin));
    this.#restored.set(deviceId, lane);
    if (!report) return;
    this.reports.set(laneKey(deviceId, lane), report);
    await this.#settle(deviceId);
  }

  /** A lane with what the journal holds of it, not its device's current one. */
  reopen(recorded: RecordedLane, origin: LaneOrigin): Promise<JournaledLane> {
    return this.#open(recorded.assignment, recorded.lane, { recorded, origin });
  }

  /** Gives up the devices among `ids` that have not come since this process began. */
  giveUp(ids: Iterable<string>): void {
    for (const deviceId of ids)
      if (!this.#runners.has(deviceId)) void this.lose(deviceId, "it did not come back");
  }

  /** A lane that delivered before this process began: its report is still welcome. */
  awaitReport(deviceId: string, lane: number): void {
    this.#unreported.add(laneKey(deviceId, lane));
  }

  /** Starts a device, or lets it go on after it came back. */
  async enter(device: ReadyDevice): Promise<void> {
    const { id, gone } = device;
    if (!this.#isOpen || !this.#course.asks(id)) return;
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

  /** What was delivered counts, even if its report is lost with the device. */
  async lose(deviceId: string, reason: string): Promise<void> {
    if (!this.#isOpen || this.#course.phaseOf(deviceId) === undefined) return;
    if (await this.#settle(deviceId)) return;
    this.#options.onEvent({ kind: "lost", deviceId, reason });
    this.#course.lost(deviceId);
  }

  /** A lane message, a report or a failure of a device; what is refused is named in the log with its sender. */
  async take(deviceId: string, request: Envelope, signal: AbortSignal): Promise<Reply> {
    try {
      return await this.#take(deviceId, request, signal);
    } catch (error) {
      // Foreign text may be long and hold line breaks.
      const reason = errorLine(error).slice(0, 500).replace(/\s+/g, " ");
      if (!signal.aborted) this.#options.log(`refused a message of device ${deviceId}: ${reason}`);
      throw error;
    }
  }

  async #take(deviceId: string, request: Envelope, signal: AbortSignal): Promise<Reply> {
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

  /** Notes what was delivered though its report is not here yet. */
  async settleAll(): Promise<void> {
    for (const deviceId of this.lanes.keys()) await this.#settle(deviceId);
  }

  /** The lane to start the device with, its inbox open; undefined when the device has nothing to do but to report. */
  async #admit(device: ReadyDevice): Promise<JournaledLane | undefined> {
    const { id, instance } = device;
    if (this.#course.phaseOf(id) === "delivered") {
      const lane = this.lanes.get(id);
      // It may still wait to hear that its delivery is here, and has its report to give.
      if (!this.#course.goesOn || (lane && this.#owesReport(device, lane))) {
        if (lane) this.#openInbox(device, lane);
        return undefined;
      }
      this.#release(id);
    }
    this.#course.joined(id);
    const lane = await this.#laneFor(device);
    this.#openInbox(device, lane);
    this.#runners.set(id, instance);
    return lane;
  }

  #owesReport({ id, instance }: ReadyDevice, { info }: JournaledLane): boolean {
    return this.#runners.get(id) === instance && !this.reports.has(laneKey(id, info.lane));
  }

  /** The device's lane is the course's from now on. */
  #release(deviceId: string): void {
    const lane = this.lanes.get(deviceId);
    if (lane) this.awaitReport(deviceId, lane.info.lane);
    this.lanes.delete(deviceId);
    this.#course.released(deviceId);
  }

  /** An inbox that is open for this lane already knows more of it than the journal did. */
  #openInbox({ id, inbox }: ReadyDevice, { info, progress }: JournaledLane): void {
    const { globalStep: _, acceptedLane: __, ...place } = info;
    if (this.#inboxes.get(id) === place.lane) return;
    inbox.open(place, progress);
    this.#inboxes.set(id, place.lane);
  }

  /** The lane that the device's process runs, one that survived a restart of this process, or a new one. */
  async #laneFor(device: ReadyDevice): Promise<JournaledLane> {
    const { id, instance, assignment } = device;
    const { lastLanes } = this.#options;
    const known = this.lanes.get(id);
    const isRestored = this.#restored.get(id) === known?.info.lane && !this.#runners.has(id);
    if (known && (isRestored || this.#runners.get(id) === instance)) return known;
    await known?.close();
    const origin = await this.#course.origin();
    const lane = (lastLanes.get(id) ?? 0) + 1;
    lastLanes.set(id, lane);
    const opened = await this.#open(assignment, lane, { device: laneDevice(device), origin });
    this.lanes.set(id, opened);
    return opened;
  }

  async #open(
    assignment: Assignment,
    lane: number,
    { origin, ...from }: { readonly origin: LaneOrigin } & LaneSource,
  ): Promise<JournaledLane> {
    const { task, folder, servers, acceptedLanes } = this.#options;
    const { round, attempt, global } = origin;
    const { protocol, server } = await servers.get(assignment.protocol, assignment.protocolVersion);
    const globalStep = (round - 1) * task.training.localSteps;
    const acceptedLane = acceptedLanes.get(assignment.deviceId) ?? 0;
    const info = { round, attempt, lane, globalStep, acceptedLane };
    const place = { folder, protocol, server, assignment, info, global };
    return openJournaledLane({ ...place, ...from });
  }

  async #start({ id, link, gone }: ReadyDevice, lane: JournaledLane): Promise<void> {
    const { task, acceptedLanes, lastAccepted, onEvent, signal } = this.#options;
    const { globalStep, acceptedLane: _former, ...place } = lane.info;
    const { deviceId: _, ...assignment } = lane.assignment;
    const { tensors, blobs = new Map(), ...payload } = lane.first;
    onEvent({ kind: "started", deviceId: id, lane: place.lane, protocol: assignment.protocol });
    const acceptedLane = acceptedLanes.get(id) ?? 0;
    const news = this.#course.newsFor(id);
    const former = lastAccepted(id);
    const isReassigned = former !== undefined && former !== labelOf(lane.assignment);
    const fields = { ...assignment, globalStep, acceptedLane, isReassigned, payload, ...news };
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
    const key = laneKey(deviceId, request.lane);
    const isCurrent = this.lanes.get(deviceId)?.info.lane === request.lane;
    if (this.reports.has(key) || !(isCurrent || this.#unreported.has(key))) return;
    const report = readFields(request, reportSchema);
    await folder.journal.append({ kind: "report", deviceId, lane: request.lane, report });
    this.reports.set(key, report);
    onEvent({ kind: "reported", deviceId, report });
    if (!isCurrent) return;
    await this.lose(deviceId, "it reported without delivering");
    // After the reply: bytes that the device sees after its next start are that lane's.
    if (this.#course.goesOn) setImmediate(() => this.#goOn(deviceId));
  }

  #goOn(deviceId: string): void {
    const device = this.#options.fleet.ready.get(deviceId);
    if (device && this.#course.phaseOf(deviceId) === "delivered") void this.enter(device);
  }

  /** Notes a delivery if there is one. */
  async #settle(deviceId: string): Promise<boolean> {
    const lane = this.lanes.get(deviceId);
    if (!lane || (await lane.result()) === undefined) return false;
    if (this.#course.phaseOf(deviceId) !== "delivered")
      await this.#course.delivered(deviceId, lane);
    return true;
  }
}

type LaneSource = { readonly recorded: RecordedLane } | { readonly device: LaneDevice };

function laneDevice({ profile, selection }: ReadyDevice): LaneDevice {
  return { board: profile.board.model, estimate: chosenOf(selection)?.candidate.cost };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
