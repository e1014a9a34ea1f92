// A run from its first round to its adapter. Pure decisions live in protocols/; here they meet the disk,
// the devices and the engine.
import { join } from "node:path";
import { type Log, type Presence, systemClock, type Transport } from "../../broker/index.ts";
import {
  type AnyProtocol,
  type BufferedUpdate,
  chooseCohort,
  chosenOf,
  foldRound,
  type GlobalModel,
  headOf,
  initialOf,
  modelSpec,
  type RefinementFigures,
  requireAggregationMemory,
  shapesOf,
  type YieldedResult,
} from "../../protocols/index.ts";
import {
  type Engine,
  loadScorer,
  type Parameters,
  type Score,
  type Scorer,
  saveAdapter,
  TrifoldError,
} from "../../runtime/index.ts";
import { runReport } from "../report/run-report.ts";
import { writeReport } from "../report/write-report.ts";
import { asynchronousPace } from "./asynchronous.ts";
import { coordinationSeconds, type RoundSeconds, timeRefinements } from "./coordination.ts";
import type { OnEvent } from "./events.ts";
import { type Fleet, openFleet } from "./fleet.ts";
import { journalFile, readJournal } from "./journal.ts";
import type { AttemptOutcome, Pace } from "./pace.ts";
import type { PreparedTask } from "./prepared-task.ts";
import { positionOf, type RunPosition } from "./recovery.ts";
import { createRevisions, type Revisions } from "./revisions.ts";
import { returnMs, synchronousPace } from "./round-runner.ts";
import type { RunFolder } from "./run-folder.ts";
import { createServers, type Servers } from "./servers.ts";

/** What a run is started with. */
export interface CoordinatorOptions {
  readonly prepared: PreparedTask;
  /** Opened for the task; the caller closes it. */
  readonly folder: RunFolder;
  /** Names the topics; devices give the same. */
  readonly federation: string;
  /** Connected as the coordinator. */
  readonly transport: Transport;
  /** Shows rounds and accuracy to whoever watches the broker. */
  readonly presence: Presence;
  readonly engine: Engine;
  readonly protocols: readonly AnyProtocol[];
  readonly signal: AbortSignal;
  readonly onEvent: OnEvent;
  readonly log: Log;
}

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
  const { prepared, transport, protocols, onEvent, log } = options;
  const { task, model, publicSet } = prepared;
  const { after } = systemClock;
  const context = { task, engine: options.engine, model, publicSet, after, log };
  const servers = createServers(protocols, context);
  const scorer = await loadScorer(options.engine, modelSpec(task, model));
  const { journal } = options.folder;
  const revisions = createRevisions({ task, protocols, journal, onEvent });
  const fleet = await openFleet({
    transport,
    federation: options.federation,
    task,
    assign: revisions.assign,
    publicBytes: prepared.publicBytes,
    onEvent,
    log,
  });
  try {
    return await runRounds({ ...options, servers, scorer, fleet, revisions });
  } finally {
    await fleet.close();
    await servers.close();
    await scorer.close();
  }
}

interface Run extends CoordinatorOptions {
  readonly servers: Servers;
  readonly scorer: Scorer;
  readonly fleet: Fleet;
  readonly revisions: Revisions;
}

async function runRounds(run: Run): Promise<RunResult> {
  const { prepared, folder, onEvent, presence } = run;
  const { task } = prepared;
  const { rounds } = task.training;
  const isAsynchronous = task.asynchronous !== undefined;
  let position = positionOf(folder.journal.records, { isAsynchronous });
  const acceptedLanes = new Map(position.acceptedLanes);
  const pace = paceOf(run, new Map(position.lastLanes), acceptedLanes);
  let global = folder.checkpoint ?? { round: 0, parameters: initialOf(task) };
  if (folder.journal.records.length > 0)
    onEvent({ kind: "resumed", round: position.round, attempt: position.attempt });
  while (position.round <= rounds) {
    await cohortReady(run, position);
    if (!position.isInterrupted) await run.revisions.revise(run.fleet, position.round);
    position = await beginRound(run, position);
    const { round, attempt, cohort } = position;
    const started = performance.now();
    await folder.saveProfiles(run.fleet.ready.values());
    const outcome = await pace.run(position, global);
    const settled = await settle(run, global, outcome);
    if (settled.kind === "reopen") {
      onEvent({ kind: "reopened", round, reason: settled.reason });
      await run.revisions.note(round, { ...outcome, decision: settled });
      await closeLanes(outcome);
      position = nextPosition({ round, attempt: attempt + 1 });
      continue;
    }
    global = settled.global;
    if (round === rounds) pace.close();
    else pace.adopt(global);
    const score = await scoreGlobal(run, global.parameters);
    const seconds = (performance.now() - started) / 1000;
    const accepted = acceptedOf(outcome);
    const updates = isAsynchronous ? { updates: updatesOf(outcome, round) } : {};
    const closed = { round, attempt, accepted, ...updates, ...score, seconds };
    await folder.journal.append({ kind: "closed", ...closed });
    await run.revisions.note(round, outcome);
    raiseLanes(acceptedLanes, accepted);
    const coordination = coordinationOf(run, outcome, { ...settled, seconds });
    const figures = { ...score, ...truncationOf(global), seconds, ...coordination };
    await record(run, round, outcome, figures);
    await folder.clearUploads((name) => pace.needs(name));
    onEvent({ kind: "closed", round, accepted: Object.keys(accepted), ...score, seconds });
    void tellDevices(run, "close", (deviceId) => ({
      acceptedLane: acceptedLanes.get(deviceId) ?? 0,
    }));
    const isPartial = cohort !== undefined || isAsynchronous;
    const partakers = isPartial ? [...acceptedLanes.keys()] : Object.keys(accepted);
    position = nextPosition({ round: round + 1, attempt: 1 }, partakers);
  }
  const score = await scoreGlobal(run, global.parameters);
  await saveResult(run, global.parameters);
  await presence.update({ task: task.name, round: rounds, rounds, ...score, finished: true });
  await devicesBack(run, position.unaware);
  await tellDevices(run, "finish", () => ({}));
  if (position.unaware.length > 0) await folder.journal.append({ kind: "finished" });
  onEvent({ kind: "finished", ...score });
  return { global, score };
}

/** Devices may be on their way back after a restart or a lost connection, and would wait for a next round for ever. */
async function devicesBack({ fleet, signal }: Run, ids: readonly string[]): Promise<void> {
  const patience = AbortSignal.any([signal, AbortSignal.timeout(returnMs)]);
  const isMissing = () => ids.some((id) => !fleet.ready.has(id) && !fleet.hasLeft(id));
  while (isMissing() && !patience.aborted) await fleet.changed(patience);
  signal.throwIfAborted();
}

/** Chooses whom the round asks and writes it down, unless a crash interrupted it, and tells the audience. */
async function beginRound(run: Run, position: RunPosition): Promise<RunPosition> {
  const { prepared, folder, onEvent, presence } = run;
  const { round, attempt, isInterrupted } = position;
  const { rounds } = prepared.task.training;
  const cohort = isInterrupted ? position.cohort : askedBy(run, position);
  const asked = cohort?.length ?? run.fleet.ready.size;
  requireAggregationMemory(prepared.task.aggregation, asked, shapesOf(prepared.task));
  if (!isInterrupted)
    await folder.journal.append({ kind: "round", round, attempt, ...(cohort && { cohort }) });
  onEvent({ kind: "round", round, attempt, rounds, ...(cohort && { asked: cohort }) });
  await presence.update({ task: prepared.task.name, round, rounds });
  return { ...position, cohort };
}

/** Whom a round that begins now asks; nobody in particular where everyone may come. */
function askedBy(
  { fleet, prepared }: Run,
  { round, attempt }: RunPosition,
): readonly string[] | undefined {
  const { seed, cohort } = prepared.task;
  if (cohort.fraction === 1) return undefined;
  const candidates = [...fleet.ready.values()].map(({ id, selection }) => {
    const seconds = chosenOf(selection)?.figures.find(({ name }) => name === "seconds")?.value;
    return { deviceId: id, seconds };
  });
  return chooseCohort(candidates, cohort, { seed, round, attempt });
}

/** Waits until the minimum of devices is ready, counting those whose work the journal already holds. */
async function cohortReady(
  { fleet, prepared, onEvent, signal }: Run,
  position: RunPosition,
): Promise<void> {
  const { minimumDevices } = prepared.task.cohort;
  const { lanes, cohort = [] } = position;
  const present = () => new Set([...fleet.ready.keys(), ...lanes.keys(), ...cohort]).size;
  while (present() < minimumDevices) {
    signal.throwIfAborted();
    onEvent({ kind: "waiting", ready: fleet.ready.size, needed: minimumDevices });
    await fleet.changed(signal);
  }
}

/** What an attempt came to: the next global model, or why its round is opened again. */
type Settled =
  | { readonly kind: "reopen"; readonly reason: string }
  | { readonly kind: "close"; readonly global: GlobalModel; readonly refinementSeconds: number };

async function settle(run: Run, global: GlobalModel, outcome: AttemptOutcome): Promise<Settled> {
  if (outcome.decision.kind === "reopen") return outcome.decision;
  try {
    return { kind: "close", ...(await closeRound(run, global, outcome)) };
  } catch (error) {
    // What the devices delivered does not make a round, such as too few updates for Krum: asking again may.
    if (!(error instanceof TrifoldError && error.code.startsWith("AGGREGATION_"))) throw error;
    return { kind: "reopen", reason: `${error.code}: ${error.message}` };
  }
}

/** Folds what the accepted devices delivered into the next global model, and saves it. */
async function closeRound(
  { prepared, folder, servers }: Run,
  global: GlobalModel,
  outcome: AttemptOutcome,
): Promise<{ readonly global: GlobalModel; readonly refinementSeconds: number }> {
  const refinements: RefinementFigures[] = [];
  const timed = timeRefinements(await servers.open(), () => performance.now());
  const next = await foldRound(prepared.task, global, {
    results: await resultsOf(outcome),
    servers: timed.servers,
    record: (figures) => refinements.push(figures),
  });
  for (const figures of refinements)
    await folder.appendMetrics({ kind: "refinement", round: next.round, ...figures });
  await closeLanes(outcome);
  await folder.saveCheckpoint(next);
  return { global: next, refinementSeconds: timed.refinementSeconds() };
}

/** Nothing of asynchronous rounds: they overlap, and what one takes beside its devices is no figure of its own. */
function coordinationOf(
  { prepared }: Run,
  { lanes }: AttemptOutcome,
  { seconds, refinementSeconds }: Pick<RoundSeconds, "seconds" | "refinementSeconds">,
): { readonly coordinationSeconds?: number } {
  if (prepared.task.asynchronous) return {};
  const deviceSeconds = lanes.map(({ report }) => report()?.trainSeconds ?? 0);
  const round = { seconds, refinementSeconds, deviceSeconds };
  return { coordinationSeconds: coordinationSeconds(round) };
}

/** What the accepted lanes yield, in device-id and lane order, each with the rounds that it missed. */
async function resultsOf({ lanes }: AttemptOutcome): Promise<readonly YieldedResult[]> {
  const results: YieldedResult[] = [];
  for (const { lane, isAccepted, staleness } of lanes) {
    const result = isAccepted ? await lane.result() : undefined;
    if (result) results.push({ ...result, staleness });
  }
  return results;
}

function scoreGlobal({ prepared, scorer, signal }: Run, parameters: Parameters): Promise<Score> {
  return scorer.run(parameters, prepared.testSet, signal);
}

/** One line for each lane that ended and one for the round. */
async function record(
  { folder }: Run,
  round: number,
  { lanes, decision }: AttemptOutcome,
  figures: Score & {
    readonly seconds: number;
    readonly truncation?: number;
    readonly coordinationSeconds?: number;
  },
): Promise<void> {
  const devices = decision.kind === "close" ? decision.accepted.length : 0;
  for (const { lane, report, isAccepted, staleness } of lanes) {
    const { deviceId, protocol } = lane.assignment;
    const line = { kind: "device", round, deviceId, protocol, isAccepted, staleness };
    await folder.appendMetrics({ ...line, ...report() });
  }
  await folder.appendMetrics({ kind: "round", round, devices, ...figures });
}

/** Of `stack`: the largest share of a layer's mean that the rank could not hold. */
function truncationOf({ truncation }: GlobalModel): { readonly truncation?: number } {
  return truncation ? { truncation: Math.max(...truncation.values()) } : {};
}

/** The adapter, and the run in figures. */
async function saveResult({ prepared, folder, fleet }: Run, parameters: Parameters): Promise<void> {
  const { task, model, modelFolder } = prepared;
  await saveAdapter(join(folder.path, "adapter"), {
    lora: task.adapter,
    head: headOf(task),
    parameters,
    ...(task.head.kind === "lm" ? {} : { labels: task.head.labels }),
    baseModelName: modelFolder,
    baseModelSha256: model.sha256,
  });
  await folder.saveProfiles(fleet.ready.values());
  await writeReport(folder.path, runReport(await readJournal(journalFile(folder.path)), task));
}

/** Tells every ready device something; one that does not answer is not waited for longer than 10 s. */
async function tellDevices(
  { fleet, log, signal }: Run,
  kind: string,
  fieldsFor: (deviceId: string) => Readonly<Record<string, unknown>>,
): Promise<void> {
  const patience = AbortSignal.any([signal, AbortSignal.timeout(10_000)]);
  const told = [...fleet.ready.values()].map(async ({ id, link }) => {
    try {
      await link.request({ kind, fields: fieldsFor(id) }, { signal: patience });
    } catch (error) {
      log(`${id} did not answer "${kind}": ${error instanceof Error ? error.message : error}`);
    }
  });
  await Promise.all(told);
}

async function closeLanes({ lanes }: AttemptOutcome): Promise<void> {
  for (const { lane } of lanes) await lane.close();
}

/** The last accepted lane of each device. */
function acceptedOf({ lanes }: AttemptOutcome): Record<string, number> {
  const accepted = lanes.filter(({ isAccepted }) => isAccepted);
  return Object.fromEntries(accepted.map(({ lane }) => [lane.assignment.deviceId, lane.info.lane]));
}

/** Every accepted lane, with what an asynchronous run knows of it. */
function updatesOf({ lanes }: AttemptOutcome, round: number): BufferedUpdate[] {
  return lanes
    .filter(({ isAccepted }) => isAccepted)
    .map(({ lane, staleness }) => {
      return { deviceId: lane.assignment.deviceId, lane: lane.info.lane, round, staleness };
    });
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
  return settings ? asynchronousPace({ ...options, settings }) : synchronousPace(options);
}

function nextPosition(
  at: { readonly round: number; readonly attempt: number },
  unaware: readonly string[] = [],
): RunPosition {
  const none = new Map<string, never>();
  return {
    ...at,
    isInterrupted: false,
    cohort: undefined,
    lanes: none,
    buffer: [],
    lastLanes: none,
    acceptedLanes: none,
    unaware,
  };
}
