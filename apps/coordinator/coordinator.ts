// A run from its first round to its adapter. Pure decisions live in protocols/; here they meet the disk,
// the devices and the engine.
import { systemClock } from "../../broker/index.ts";
import { type GlobalModel, initialOf, modelSpec } from "../../protocols/index.ts";
import { loadScorer, type Score } from "../../runtime/index.ts";
import { defaultHeartbeatMs, withHeartbeat } from "../heartbeat.ts";
import { asynchronousPace } from "./asynchronous.ts";
import { openFleet } from "./fleet.ts";
import type { EndedLane, Pace } from "./pace.ts";
import { freshPosition, positionOf } from "./recovery.ts";
import { createRevisions } from "./revisions.ts";
import { rightOfWay } from "./right-of-way.ts";
import { recordClosed, settleAttempt } from "./round-closing.ts";
import { beginRound, cohortReady } from "./round-opening.ts";
import { synchronousPace } from "./round-runner.ts";
import { rowsIn } from "./row-folders.ts";
import type { CoordinatorOptions, Run } from "./run.ts";
import { endRun, tellDevices } from "./run-ending.ts";
import { openScoring } from "./scoring.ts";
import { createServers } from "./servers.ts";
import { createSupplies } from "./supplies.ts";
import { wellBeingOf } from "./well-being.ts";
import { withSplitWorkers } from "./worker-lanes.ts";

/** What a finished run leaves in memory; the run folder holds the rest. */
export interface RunResult {
  readonly global: GlobalModel;
  /** On the test set. */
  readonly score: Score;
}

/**
 * Runs a task to its last round, going on where an earlier process stopped. Rejects with the signal's reason
 * when stopped; the run folder then holds everything needed to go on.
 */
export async function runCoordinator(options: CoordinatorOptions): Promise<RunResult> {
  const { prepared, transport, protocols, folder, signal, onEvent, log } = options;
  const { task, model, publicSet, testSet } = prepared;
  const { urgent, patient } = rightOfWay(options.engine);
  const { after } = systemClock;
  const rowsOf = rowsIn(folder.path, folder, log);
  const context = { task, engine: urgent, model, publicSet, rowsOf, after, log };
  const { splitWorkers } = options;
  const ends = splitWorkers
    ? withSplitWorkers(protocols, { ...splitWorkers, runFolder: folder.path })
    : protocols;
  const servers = createServers(ends, context);
  const scorer = await loadScorer(patient, modelSpec(task, model));
  const { journal } = folder;
  const revisions = createRevisions({ task, protocols, journal, onEvent });
  const fleet = await openFleet({
    transport,
    federation: options.federation,
    task,
    assign: revisions.assign,
    incomingFolder: folder.incomingFolder,
    supplies: createSupplies(prepared),
    onEvent,
    log,
  });
  const presence = withHeartbeat({
    presence: options.presence,
    details: { task: task.name },
    intervalMs: defaultHeartbeatMs,
    read: wellBeingOf(transport, fleet),
    clock: systemClock,
    log,
  });
  const scoring = openScoring({ scorer, testSet, folder, signal, onEvent });
  try {
    return await runRounds({ ...options, presence, servers, scoring, fleet, revisions });
  } finally {
    presence.rest();
    await scoring.close();
    await fleet.close();
    await servers.close();
    await scorer.close();
  }
}

async function runRounds(run: Run): Promise<RunResult> {
  const { prepared, folder, scoring, fleet, revisions, onEvent } = run;
  const { task } = prepared;
  const { rounds } = task.training;
  const isAsynchronous = task.asynchronous !== undefined;
  let position = positionOf(folder.journal.records, { isAsynchronous });
  const acceptedLanes = new Map(position.acceptedLanes);
  const pace = paceOf(run, new Map(position.lastLanes), acceptedLanes);
  let global = folder.checkpoint ?? { round: 0, parameters: initialOf(task) };
  if (folder.journal.records.length > 0)
    onEvent({ kind: "resumed", round: position.round, attempt: position.attempt });
  let startedMs = performance.now();
  while (position.round <= rounds) {
    if (await cohortReady(run, position)) startedMs = performance.now();
    if (!position.isInterrupted) await revisions.revise(fleet, position.round);
    position = await beginRound(run, position);
    const { round, attempt, cohort } = position;
    await folder.saveProfiles(fleet.ready.values());
    const outcome = await pace.run(position, global);
    const settled = await settleAttempt(run, global, outcome);
    if (settled.kind === "reopen") {
      onEvent({ kind: "reopened", round, reason: settled.reason });
      await revisions.note(round, outcome);
      position = freshPosition({ round, attempt: attempt + 1 });
      startedMs = performance.now();
      continue;
    }
    global = settled.global;
    if (round === rounds) pace.close();
    else pace.adopt(global);
    await scoring.settled();
    const closedMs = performance.now();
    const seconds = (closedMs - startedMs) / 1000;
    startedMs = closedMs;
    const closed = await recordClosed(run, position, { outcome, settled, seconds });
    scoring.begin(closed, global.parameters);
    await revisions.note(round, outcome);
    raiseLanes(acceptedLanes, closed.accepted);
    await folder.clearUploads((name) => pace.needs(name));
    const accepted = Object.keys(closed.accepted);
    onEvent({ kind: "closed", round, accepted, seconds });
    void tellDevices(run, "close", (deviceId) => ({
      acceptedLane: acceptedLanes.get(deviceId) ?? 0,
    }));
    const isPartial = cohort !== undefined || isAsynchronous;
    const partakers = isPartial ? [...acceptedLanes.keys()] : accepted;
    position = freshPosition({ round: round + 1, attempt: 1 }, partakers);
  }
  // A task has at least one round.
  const score = (await scoring.settled()) as Score;
  await endRun(run, global.parameters, { score, unaware: position.unaware });
  return { global, score };
}

/** A device may have a later lane that is sure to be folded in. */
function raiseLanes(lanes: Map<string, number>, accepted: Readonly<Record<string, number>>): void {
  for (const [deviceId, lane] of Object.entries(accepted))
    lanes.set(deviceId, Math.max(lane, lanes.get(deviceId) ?? 0));
}

/** How the task's rounds end. */
function paceOf(
  run: Run,
  lastLanes: Map<string, number>,
  acceptedLanes: Map<string, number>,
): Pace {
  const { task } = run.prepared;
  const { lastAccepted } = run.revisions;
  const options = { ...run, task, lastLanes, acceptedLanes, lastAccepted };
  const { asynchronous: settings } = task;
  if (!settings) return synchronousPace(options);
  const reconsider = async (round: number, lanes: readonly EndedLane[]): Promise<void> => {
    await run.revisions.note(round, { lanes });
    await run.revisions.revise(run.fleet, round);
  };
  return asynchronousPace({ ...options, settings, reconsider });
}
