// Everything that a run consists of while it goes on: what it was started with and what was opened for it.
import type { Log, Presence, Transport } from "../../broker/index.ts";
import type { AnyProtocol } from "../../protocols/index.ts";
import type { Engine } from "../../runtime/index.ts";
import type { OnEvent } from "./events.ts";
import type { Fleet } from "./fleet.ts";
import type { PreparedTask } from "./prepared-task.ts";
import type { Revisions } from "./revisions.ts";
import type { RunFolder } from "./run-folder.ts";
import type { Scoring } from "./scoring.ts";
import type { Servers } from "./servers.ts";
import type { WorkerLanesOptions } from "./worker-lanes.ts";

/** What a run is started with. */
export interface CoordinatorOptions {
  readonly prepared: PreparedTask;
  /** Opened for the task; the caller closes it. */
  readonly folder: RunFolder;
  /** Names the topics; devices give the same. */
  readonly federation: string;
  /** Connected as the coordinator. */
  readonly transport: Transport;
  /** Shows rounds and the final score to whoever watches the broker. */
  readonly presence: Presence;
  readonly engine: Engine;
  /** Worker processes that run the lanes of `split`; none, in this process, when left out. */
  readonly splitWorkers?: Omit<WorkerLanesOptions, "runFolder">;
  readonly protocols: readonly AnyProtocol[];
  readonly signal: AbortSignal;
  readonly onEvent: OnEvent;
  readonly log: Log;
}

/** A run that goes on. */
export interface Run extends CoordinatorOptions {
  readonly servers: Servers;
  readonly scoring: Scoring;
  readonly fleet: Fleet;
  readonly revisions: Revisions;
}
