// Runs attempts of rounds that end all together: every device has a lane, and the state machine of
// `protocols/round.ts` says when they end.
import { defaultBackOff } from "../../broker/index.ts";
import {
  advance,
  aggregationPlaces,
  compareDeviceIds,
  decide,
  type GlobalModel,
  openRound,
  type RoundEvent,
  shapesOf,
} from "../../protocols/index.ts";
import { createAdmission } from "./admission.ts";
import type { Course, DeskOptions } from "./course.ts";
import { LaneDesk } from "./lane-desk.ts";
import { laneKey } from "./lane-reports.ts";
import type { AttemptOutcome, EndedLane, Pace } from "./pace.ts";
import type { RunPosition } from "./recovery.ts";
import { createRoundChanges } from "./round-changes.ts";

/** How long devices have to come back after a restart of this process: twice their longest wait between two tries. */
export const returnMs = 2 * defaultBackOff.maxMs;

/** Rounds that end all together. */
export function synchronousPace(options: DeskOptions): Pace {
  return {
    run: (position, global) => runAttempt(options, position, global),
    adopt: () => {},
    needs: () => false,
    close: () => {},
  };
}

async function runAttempt(
  options: DeskOptions,
  position: RunPosition,
  global: GlobalModel,
): Promise<AttemptOutcome> {
  const { fleet, task, signal } = options;
  const { round, attempt, cohort } = position;
  const { minimumDevices, roundDeadlineMs } = task.cohort;
  const origin = { round, attempt, global };
  const places = aggregationPlaces(task.aggregation, shapesOf(task));
  const admission = createAdmission(places, (deviceId) =>
    options.log(
      `${deviceId} is left out of round ${round}: aggregation.memoryBytes has room for the updates of ${places} devices`,
    ),
  );
  const changes = createRoundChanges();
  let state = openRound(round, attempt, cohort);
  const note = (event: RoundEvent) => {
    state = advance(state, event);
    changes.announce();
  };
  const course: Course = {
    asks: (deviceId) => (cohort?.includes(deviceId) ?? true) && admission.takes(deviceId),
    phaseOf: (deviceId) => state.lanes.get(deviceId),
    joined: (deviceId) => {
      // One that a restart brought back was not asked again.
      admission.takes(deviceId);
      note({ kind: "joined", deviceId });
    },
    lost: (deviceId) => {
      admission.leaves(deviceId);
      note({ kind: "lost", deviceId });
    },
    delivered: async (deviceId) => note({ kind: "delivered", deviceId }),
    origin: async () => origin,
    goesOn: false,
    released: () => {},
    newsFor: () => ({}),
  };
  const desk = new LaneDesk(options, course);
  await desk.open(async () => {
    for (const recorded of position.lanes.values()) await desk.restore(recorded, origin);
  });
  const patience = awaitReturn(desk, position);
  // Went while the round was being written down, when nobody listened.
  for (const deviceId of position.isInterrupted ? [] : (cohort ?? []))
    if (!fleet.ready.has(deviceId)) void desk.lose(deviceId, "the connection was lost");
  try {
    const decision = await changes.decision({
      decide: (deadlinePassed) => decide(state, { minimumDevices, deadlinePassed }),
      beforeDeadline: () => desk.settleAll(),
      deadlineMs: roundDeadlineMs,
      signal,
    });
    desk.end();
    const accepted = decision.kind === "close" ? decision.accepted : [];
    const ended = endedLanes(desk, accepted).map((one) => {
      const { deviceId } = one.lane.assignment;
      const isLate = state.lanes.get(deviceId) === "open";
      return { ...one, isLate, failure: desk.said.failures.get(deviceId) };
    });
    return { decision, lanes: ended };
  } finally {
    clearTimeout(patience);
  }
}

/** The round waits for the devices that it had before a crash, but not for ever. */
export function awaitReturn(
  desk: LaneDesk,
  { isInterrupted, lanes, cohort = [] }: RunPosition,
): NodeJS.Timeout | undefined {
  const awaited = new Set([...lanes.keys(), ...cohort]);
  if (!isInterrupted || awaited.size === 0) return undefined;
  return setTimeout(() => desk.giveUp(awaited), returnMs);
}

function endedLanes({ lanes, said }: LaneDesk, accepted: readonly string[]): EndedLane[] {
  return [...lanes]
    .sort(([a], [b]) => compareDeviceIds(a, b))
    .map(([deviceId, lane]) => ({
      lane,
      report: () => said.reports.get(laneKey(deviceId, lane.info.lane)),
      isAccepted: accepted.includes(deviceId),
      staleness: 0,
    }));
}
