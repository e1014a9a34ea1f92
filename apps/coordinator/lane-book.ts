// Which lane each device is in, and which process of the device runs it: a lane outlives connections and this process, not the
// device's own.
import { type Assignment, chosenOf } from "../../protocols/index.ts";
import type { DeskOptions, LaneOrigin } from "./course.ts";
import type { ReadyDevice } from "./fleet.ts";
import { type JournaledLane, type LaneDevice, openJournaledLane } from "./open-lane.ts";
import type { RecordedLane } from "./recovery.ts";

/** The current lane of each device. */
export class LaneBook {
  /** By device id. */
  readonly lanes = new Map<string, JournaledLane>();
  readonly #options: BookOptions;
  /** Process of each device that runs its lane; undefined once it has given the lane up. */
  readonly #runners = new Map<string, string | undefined>();
  /** Lane that each device's inbox was opened for in this process. */
  readonly #inboxes = new Map<string, number>();
  /** Lanes that were restored from the journal: their devices' processes may still run them. */
  readonly #restored = new Map<string, number>();

  constructor(options: BookOptions) {
    this.#options = options;
  }

  /** A lane with what the journal holds of it, not its device's current one. */
  reopen(recorded: RecordedLane, origin: LaneOrigin): Promise<JournaledLane> {
    return this.#open(recorded.assignment, recorded.lane, { recorded, origin });
  }

  /** A lane with what the journal holds of it, which its device may still be in. */
  async restore(recorded: RecordedLane, origin: LaneOrigin): Promise<void> {
    const { deviceId, lane } = recorded;
    this.lanes.set(deviceId, await this.reopen(recorded, origin));
    this.#restored.set(deviceId, lane);
  }

  /** The lane that the device's process runs, one that survived a restart of this process, or a new one. Its inbox is open. */
  async enter(device: ReadyDevice, origin: () => Promise<LaneOrigin>): Promise<JournaledLane> {
    const { id, instance } = device;
    const lane = await this.#laneFor(device, origin);
    this.openInbox(device, lane);
    this.#runners.set(id, instance);
    return lane;
  }

  /** An inbox that is open for this lane already knows more of it than the journal did. */
  openInbox({ id, inbox }: ReadyDevice, { info, progress }: JournaledLane): void {
    const { globalStep: _, acceptedLane: __, ...place } = info;
    if (this.#inboxes.get(id) === place.lane) return;
    inbox.open(place, progress);
    this.#inboxes.set(id, place.lane);
  }

  /** The device's process does not run its lane any more. */
  giveUp(deviceId: string): void {
    this.#runners.set(deviceId, undefined);
  }

  isRunBy({ id, instance }: ReadyDevice): boolean {
    return this.#runners.get(id) === instance;
  }

  /** Whether the device's process has its lane's outcome from a former one. */
  isDeliveredBy({ id, delivers }: ReadyDevice): boolean {
    const info = this.lanes.get(id)?.info;
    const isGivenUp = this.#runners.has(id) && this.#runners.get(id) === undefined;
    return (
      !isGivenUp &&
      info !== undefined &&
      info.lane === delivers?.lane &&
      info.round === delivers.round &&
      info.attempt === delivers.attempt
    );
  }

  /** Whether the device was in a lane since this process began. */
  hasCome(deviceId: string): boolean {
    return this.#runners.has(deviceId);
  }

  async #laneFor(device: ReadyDevice, originOf: () => Promise<LaneOrigin>): Promise<JournaledLane> {
    const { id, assignment } = device;
    const { lastLanes } = this.#options;
    const known = this.lanes.get(id);
    const isRestored = this.#restored.get(id) === known?.info.lane && !this.hasCome(id);
    const goesOn = isRestored || this.isRunBy(device) || this.isDeliveredBy(device);
    if (known && goesOn) return known;
    await known?.close();
    const origin = await originOf();
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
}

type BookOptions = Pick<DeskOptions, "task" | "folder" | "servers" | "lastLanes" | "acceptedLanes">;
type LaneSource = { readonly recorded: RecordedLane } | { readonly device: LaneDevice };

function laneDevice({ profile, selection }: ReadyDevice): LaneDevice {
  return { board: profile.board.model, estimate: chosenOf(selection)?.candidate.cost };
}
