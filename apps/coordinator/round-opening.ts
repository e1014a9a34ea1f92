// How an attempt of a round begins: enough devices are there, those it asks are chosen, and both are written down.
import { aggregationPlaces, chooseCohort, chosenOf, shapesOf } from "../../protocols/index.ts";
import type { RunPosition } from "./recovery.ts";
import type { Run } from "./run.ts";

/**
 * Waits until the minimum of devices is ready, counting those whose work the journal already holds. Resolves with whether it
 * had to wait.
 */
export async function cohortReady(
  { fleet, prepared, onEvent, signal }: Run,
  position: RunPosition,
): Promise<boolean> {
  const { minimumDevices } = prepared.task.cohort;
  const { lanes, cohort = [] } = position;
  const present = () => new Set([...fleet.ready.keys(), ...lanes.keys(), ...cohort]).size;
  let hasWaited = false;
  while (present() < minimumDevices) {
    signal.throwIfAborted();
    hasWaited = true;
    onEvent({ kind: "waiting", ready: fleet.ready.size, needed: minimumDevices });
    await fleet.changed(signal);
  }
  return hasWaited;
}

/** Chooses whom the round asks and writes it down, unless a crash interrupted it, and tells the audience. */
export async function beginRound(run: Run, position: RunPosition): Promise<RunPosition> {
  const { prepared, folder, onEvent, presence } = run;
  const { round, attempt, isInterrupted } = position;
  const { rounds } = prepared.task.training;
  const cohort = isInterrupted ? position.cohort : askedBy(run, position);
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
  const mostDevices = aggregationPlaces(prepared.task.aggregation, shapesOf(prepared.task));
  return chooseCohort(candidates, { ...cohort, mostDevices }, { seed, round, attempt });
}
