// What decides about the lanes of devices, a round that ends all together (round-runner.ts) or an asynchronous federation
// (asynchronous.ts), and what lanes need of their run.
import type { GlobalModel, LanePhase, Task } from "../../protocols/index.ts";
import type { StartNews } from "../control-messages.ts";
import type { OnEvent } from "./events.ts";
import type { Fleet } from "./fleet.ts";
import type { JournaledLane } from "./open-lane.ts";
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
