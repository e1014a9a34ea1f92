// The lanes of the devices, one current lane for each: starts a device, passes its messages on, lets it go on after a lost
// connection. When a lane begins, ends and counts is for the course to say.
import type { Envelope, Reply } from "../../broker/index.ts";
import { errorLine } from "../error-text.ts";
import type { Course, DeskOptions, LaneOrigin } from "./course.ts";
import type { ReadyDevice } from "./fleet.ts";
import { LaneBook } from "./lane-book.ts";
import { takeLaneMessage } from "./lane-messages.ts";
import { LaneReports, laneKey } from "./lane-reports.ts";
import { type JournaledLane, noted } from "./open-lane.ts";
import type { RecordedLane } from "./recovery.ts";
import { startLane } from "./start-lane.ts";

/** The devices' lanes at the coordinator. */
export class LaneDesk {
  /** Reports and failures of lanes. */
  readonly said: LaneReports;
  readonly #options: DeskOptions;
  readonly #course: Course;
  readonly #book: LaneBook;
  /** Devices may enter: what a crash left is restored, and nothing is decided yet. */
  #isOpen = false;
  /** Settles once a device's last entry has begun: what it says of a former lane is stale before that, but it does not know yet. */
  readonly #entries = new Map<string, Promise<unknown>>();

  constructor(options: DeskOptions, course: Course) {
    this.#options = options;
    this.#course = course;
    this.#book = new LaneBook(options);
    this.said = new LaneReports(options);
  }

  /** Current lane of each device. */
  get lanes(): ReadonlyMap<string, JournaledLane> {
    return this.#book.lanes;
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
    await this.#book.restore(recorded, origin);
    if (!report) return;
    this.said.reports.set(laneKey(deviceId, lane), report);
    await this.#settle(deviceId);
  }

  /** A lane with what the journal holds of it, not its device's current one. */
  reopen(recorded: RecordedLane, origin: LaneOrigin): Promise<JournaledLane> {
    return this.#book.reopen(recorded, origin);
  }

  /** Gives up the devices among `ids` that have not come since this process began. */
  giveUp(ids: Iterable<string>): void {
    for (const deviceId of ids)
      if (!this.#book.hasCome(deviceId)) void this.lose(deviceId, "it did not come back");
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
      this.#book.giveUp(id);
      await this.lose(id, errorLine(error));
    }
  }

  async #begin(device: ReadyDevice, former: Promise<unknown> | undefined): Promise<void> {
    await former;
    const lane = await this.#admit(device);
    const news = this.#course.newsFor(device.id);
    // What was trained before the device's restart is on its way: there is nothing to start.
    if (!lane || this.#book.isDeliveredBy(device)) return;
    await startLane(device, lane, { ...this.#options, news });
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
    await this.#entries.get(deviceId);
    if (request.kind === "report") {
      await this.#takeReport(deviceId, request);
      return noted;
    }
    if (request.kind === "failed") {
      await this.#takeFailure(deviceId, request);
      return noted;
    }
    return takeLaneMessage(this.#options, this.lanes, { deviceId, request, signal });
  }

  /** Notes what was delivered though its report is not here yet. */
  async settleAll(): Promise<void> {
    for (const deviceId of this.lanes.keys()) await this.#settle(deviceId);
  }

  /** The lane to start the device with, its inbox open; undefined when the device has nothing to do but to report. */
  async #admit(device: ReadyDevice): Promise<JournaledLane | undefined> {
    const { id } = device;
    if (this.#course.phaseOf(id) === "delivered") {
      const lane = this.lanes.get(id);
      // It may still wait to hear that its delivery is here, and has its report to give.
      if (!this.#course.goesOn || (lane && this.#owesReport(device, lane))) {
        if (lane) this.#book.openInbox(device, lane);
        return undefined;
      }
      this.#release(id);
    }
    this.#course.joined(id);
    return this.#book.enter(device, () => this.#course.origin());
  }

  #owesReport(device: ReadyDevice, { info }: JournaledLane): boolean {
    const hasReported = this.said.reports.has(laneKey(device.id, info.lane));
    return this.#book.isRunBy(device) && !hasReported;
  }

  /** The device's lane is the course's from now on. */
  #release(deviceId: string): void {
    const lane = this.lanes.get(deviceId);
    if (lane) this.said.await(deviceId, lane.info.lane);
    this.#book.lanes.delete(deviceId);
    this.#course.released(deviceId);
  }

  async #takeFailure(deviceId: string, request: Envelope): Promise<void> {
    const lane = this.lanes.get(deviceId);
    if (lane?.info.lane !== request.lane) return;
    const text = this.said.takeFailure(deviceId, request);
    this.#book.giveUp(deviceId);
    // As after a crash of the coordinator: a new lane, once the device has its reply.
    const device = lane.isLost() ? this.#options.fleet.ready.get(deviceId) : undefined;
    if (device) setImmediate(() => void this.enter(device));
    else await this.lose(deviceId, text);
  }

  async #takeReport(deviceId: string, request: Envelope): Promise<void> {
    const isCurrent = this.lanes.get(deviceId)?.info.lane === request.lane;
    const isNew = await this.said.take(deviceId, request, { isCurrent });
    if (!isNew || !isCurrent) return;
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
    if (!lane || !(await lane.hasResult())) return false;
    if (this.#course.phaseOf(deviceId) !== "delivered")
      await this.#course.delivered(deviceId, lane);
    return true;
  }
}
