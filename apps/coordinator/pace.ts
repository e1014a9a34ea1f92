// When rounds end: all together (round-runner.ts) or whenever enough updates have come (asynchronous.ts). Lanes, journal
// and recovery are the same.
import type { GlobalModel, RoundDecision } from "../../protocols/index.ts";
import type { DeviceRoundReport } from "../control-messages.ts";
import type { JournaledLane } from "./open-lane.ts";
import type { RunPosition } from "./recovery.ts";

/** Runs the rounds of a run one after another. */
export interface Pace {
  /** Runs the attempt that `position` names, from `global`. Rejects with the signal's reason when the run is stopped. */
  run(position: RunPosition, global: GlobalModel): Promise<AttemptOutcome>;
  /** The attempt was folded and there is a next one: lanes that begin from now on begin with this model. */
  adopt(global: GlobalModel): void;
  /** Whether a lane that goes on, or an update that waits, may need this upload. */
  needs(uploadFile: string): boolean;
  /** Every lane is stale from now on. */
  close(): void;
}

/** How an attempt ended. */
export interface AttemptOutcome {
  readonly decision: Exclude<RoundDecision, { kind: "wait" }>;
  /** The lanes that end with it, in device-id and lane order; the caller closes them. */
  readonly lanes: readonly EndedLane[];
}

/** A lane that has ended. */
export interface EndedLane {
  readonly lane: JournaledLane;
  /** It may come after the attempt has ended. */
  readonly report: () => DeviceRoundReport | undefined;
  /** Whether it is to be folded in. */
  readonly isAccepted: boolean;
  /** Rounds folded since it began; always 0 where rounds end all together. */
  readonly staleness: number;
  /** The device was still at work. */
  readonly isLate?: boolean;
  /** Code of the error with which the device gave the lane up. */
  readonly failure?: string | undefined;
}
