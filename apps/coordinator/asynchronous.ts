// An asynchronous federation (FedBuff; protocols/update-buffer.ts): lanes end one at a time, and a device that has delivered
// begins the next one at once with the newest global model. A round is one filled buffer.
//
// What was delivered counts for certain from the moment its place in the buffer is journaled, so a device commits its state
// (such as residuals) with its next start. A dropped lane leaves the device's state as it was before the lane.
import {
  type AsynchronousSettings,
  closeBuffer,
  dueUpdates,
  type GlobalModel,
  type LanePhase,
  labelOf,
  placeUpdate,
  type UpdateBuffer,
} from "../../protocols/index.ts";
import type { Course, DeskOptions, LaneOrigin } from "./course.ts";
import { LaneDesk } from "./lane-desk.ts";
import { laneKey } from "./lane-reports.ts";
import { type JournaledLane, uploadPrefix } from "./open-lane.ts";
import type { AttemptOutcome, EndedLane, Pace } from "./pace.ts";
import type { RecordedLane, RunPosition } from "./recovery.ts";
import { createRoundChanges } from "./round-changes.ts";
import { awaitReturn } from "./round-runner.ts";

/** What an asynchronous run needs. */
export interface AsynchronousOptions extends DeskOptions {
  readonly settings: AsynchronousSettings;
  /** Notes how lanes ended while a round still waits, and looks at the devices' assignments again. */
  readonly reconsider: (round: number, lanes: readonly EndedLane[]) => Promise<void>;
}

/** Rounds that end whenever enough updates have come. */
export function asynchronousPace(options: AsynchronousOptions): Pace {
  return new BufferedRounds(options);
}

class BufferedRounds implements Pace {
  readonly #options: AsynchronousOptions;
  readonly #desk: LaneDesk;
  readonly #changes = createRoundChanges();
  readonly #phases = new Map<string, LanePhase>();
  /** Lanes whose updates wait to be folded, by `laneKey`. */
  readonly #waiting = new Map<string, JournaledLane>();
  /** Dropped since the last round ended. */
  #dropped: { readonly lane: JournaledLane; readonly staleness: number }[] = [];
  /** Given up by their devices since the last round ended, each with the error's code. */
  #failed: { readonly lane: JournaledLane; readonly failure: string }[] = [];
  /** Label of the way in which the last lane of a device was done that counts, folded or not. */
  readonly #counted = new Map<string, string>();
  /** What a device has to hear of its last lane. */
  readonly #news = new Map<string, { readonly lane: number; readonly staleness: number }>();
  #buffer: UpdateBuffer = { round: 1, updates: [] };
  #global: GlobalModel = { round: 0, parameters: new Map() };
  #patience: NodeJS.Timeout | undefined;
  #isOpen = false;
  #fold = deferred();

  constructor(options: AsynchronousOptions) {
    this.#options = options;
    const lastAccepted = (id: string) => this.#counted.get(id) ?? options.lastAccepted(id);
    this.#desk = new LaneDesk({ ...options, lastAccepted }, this.#course());
  }

  async run(position: RunPosition, global: GlobalModel): Promise<AttemptOutcome> {
    const { settings, task, signal } = this.#options;
    if (!this.#isOpen) await this.#open(position, global);
    this.#retry();
    const decision = await this.#changes.decision({
      decide: () => {
        const due = dueUpdates(this.#buffer, settings);
        if (!due) return { kind: "wait" };
        return { kind: "close", accepted: [...new Set(due.map(({ deviceId }) => deviceId))] };
      },
      beforeDeadline: async () => {
        await this.#desk.settleAll();
        await this.#options.reconsider(this.#buffer.round, this.#failures());
        this.#retry();
      },
      deadlineMs: task.cohort.roundDeadlineMs,
      signal,
    });
    return { decision, lanes: this.#endedLanes() };
  }

  adopt(global: GlobalModel): void {
    this.#global = global;
    this.#buffer = closeBuffer(this.#buffer);
    this.#fold.resolve();
    this.#fold = deferred();
  }

  needs(uploadFile: string): boolean {
    const lanes = [...this.#desk.lanes.values(), ...this.#waiting.values()];
    return lanes.some((lane) => uploadFile.startsWith(uploadPrefix(lane)));
  }

  close(): void {
    clearTimeout(this.#patience);
    this.#desk.end();
    const { size } = this.#waiting;
    if (size > 0) this.#options.log(`${size} updates were waiting for a round that does not come`);
  }

  /** What a crash left: updates that wait, then lanes that go on. */
  async #open(position: RunPosition, global: GlobalModel): Promise<void> {
    this.#isOpen = true;
    this.#global = global;
    this.#buffer = { round: position.round, updates: [] };
    await this.#desk.open(async () => {
      for (const { recorded, update } of position.buffer) {
        const { deviceId, lane, report } = recorded;
        const key = laneKey(deviceId, lane);
        this.#waiting.set(key, await this.#desk.reopen(recorded, await this.#originOf(recorded)));
        this.#counted.set(deviceId, labelOf(recorded.assignment));
        if (report) this.#desk.said.reports.set(key, report);
        else this.#desk.said.await(deviceId, lane);
        this.#buffer = { ...this.#buffer, updates: [...this.#buffer.updates, update] };
      }
      for (const recorded of position.lanes.values())
        await this.#desk.restore(recorded, await this.#originOf(recorded));
    });
    this.#patience = awaitReturn(this.#desk, position);
  }

  /** The model that a lane began with before the crash. */
  async #originOf({ round, attempt }: RecordedLane): Promise<LaneOrigin> {
    const { folder } = this.#options;
    const isNewest = round === this.#global.round + 1;
    return {
      round,
      attempt,
      global: isNewest ? this.#global : await folder.globalAfter(round - 1),
    };
  }

  #course(): Course {
    return {
      asks: () => true,
      phaseOf: (deviceId) => this.#phases.get(deviceId),
      joined: (deviceId) => this.#phases.set(deviceId, "open"),
      lost: (deviceId) => this.#lose(deviceId),
      delivered: (deviceId, lane) => this.#place(deviceId, lane),
      origin: () => this.#newest(),
      goesOn: true,
      released: (deviceId) => this.#phases.delete(deviceId),
      newsFor: (deviceId) => {
        const dropped = this.#news.get(deviceId);
        return dropped ? { dropped } : {};
      },
    };
  }

  /** Journal first, then the round may end. */
  async #place(deviceId: string, journaled: JournaledLane): Promise<void> {
    const { folder, settings, acceptedLanes, onEvent } = this.#options;
    const { lane, round: startRound } = journaled.info;
    this.#phases.set(deviceId, "delivered");
    const placement = placeUpdate(this.#buffer, { deviceId, lane, startRound }, settings);
    if (placement.kind === "dropped") {
      const { staleness } = placement;
      this.#dropped.push({ lane: journaled, staleness });
      this.#news.set(deviceId, { lane, staleness });
      await folder.journal.append({ kind: "dropped", deviceId, lane, staleness });
      onEvent({ kind: "dropped", deviceId, staleness });
      return;
    }
    this.#buffer = placement.buffer;
    this.#waiting.set(laneKey(deviceId, lane), journaled);
    this.#news.delete(deviceId);
    this.#counted.set(deviceId, labelOf(journaled.assignment));
    acceptedLanes.set(deviceId, lane);
    await folder.journal.append({ kind: "buffered", ...placement.update });
    this.#changes.announce();
  }

  #lose(deviceId: string): void {
    const lane = this.#desk.lanes.get(deviceId);
    const failure = this.#desk.said.failures.get(deviceId);
    this.#phases.set(deviceId, "lost");
    this.#desk.said.failures.delete(deviceId);
    if (lane && failure !== undefined) this.#failed.push({ lane, failure });
  }

  /** A full buffer is about to be folded: a lane that begins now waits for what comes of it. */
  async #newest(): Promise<LaneOrigin> {
    const { settings } = this.#options;
    while (dueUpdates(this.#buffer, settings)) await this.#fold.promise;
    return { round: this.#buffer.round, attempt: 1, global: this.#global };
  }

  /** Devices that gave their lane up have nothing to do until they are asked again. */
  #retry(): void {
    const { fleet } = this.#options;
    for (const device of fleet.ready.values())
      if (this.#phases.get(device.id) === "lost") void this.#desk.enter(device);
  }

  #endedLanes(): EndedLane[] {
    const { settings } = this.#options;
    const folded = (dueUpdates(this.#buffer, settings) ?? []).map((update) => {
      const key = laneKey(update.deviceId, update.lane);
      const lane = this.#waiting.get(key) as JournaledLane;
      this.#waiting.delete(key);
      return this.#ended(lane, true, update.staleness);
    });
    const dropped = this.#dropped.map(({ lane, staleness }) => this.#ended(lane, false, staleness));
    this.#dropped = [];
    return [...folded, ...dropped, ...this.#failures()];
  }

  /** The lanes that were given up; told once. */
  #failures(): EndedLane[] {
    const failed = this.#failed.map(({ lane, failure }) => {
      return { ...this.#ended(lane, false, 0), failure };
    });
    this.#failed = [];
    return failed;
  }

  #ended(lane: JournaledLane, isAccepted: boolean, staleness: number): EndedLane {
    const key = laneKey(lane.assignment.deviceId, lane.info.lane);
    const report = () => this.#desk.said.reports.get(key);
    return { lane, report, isAccepted, staleness };
  }
}

function deferred(): { readonly promise: Promise<void>; resolve(): void } {
  let resolve = () => {};
  const promise = new Promise<void>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve: () => resolve() };
}
