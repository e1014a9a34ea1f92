// How an attempt of a round ends: what its lanes yielded is folded into the next global model, saved, and written down, or the
// round is opened again. The score comes later (scoring.ts).
import {
  type BufferedUpdate,
  foldRound,
  type GlobalModel,
  type RefinementFigures,
  type YieldedResult,
} from "../../protocols/index.ts";
import { TrifoldError } from "../../runtime/index.ts";
import { coordinationSeconds, timeRefinements } from "./coordination.ts";
import type { ClosedRecord, RoundCosts } from "./journal.ts";
import type { MetricsLine } from "./metrics.ts";
import type { AttemptOutcome } from "./pace.ts";
import type { RunPosition } from "./recovery.ts";
import type { Run } from "./run.ts";

/** What an attempt came to: the next global model, or why its round is opened again. */
export type Settled =
  | { readonly kind: "reopen"; readonly reason: string }
  | {
      readonly kind: "close";
      readonly global: GlobalModel;
      readonly refinements: readonly RefinementFigures[];
      readonly refinementSeconds: number;
    };

/** Folds what the accepted devices delivered into the next global model, saves it, and closes the lanes. */
export async function settleAttempt(
  run: Run,
  global: GlobalModel,
  outcome: AttemptOutcome,
): Promise<Settled> {
  const settled = await foldAttempt(run, global, outcome);
  for (const { lane } of outcome.lanes) await lane.close();
  if (settled.kind === "close") await run.folder.saveCheckpoint(settled.global);
  return settled;
}

async function foldAttempt(
  { prepared, servers }: Run,
  global: GlobalModel,
  outcome: AttemptOutcome,
): Promise<Settled> {
  if (outcome.decision.kind === "reopen") return outcome.decision;
  const refinements: RefinementFigures[] = [];
  const timed = timeRefinements(await servers.open(), () => performance.now());
  try {
    const next = await foldRound(prepared.task, global, {
      results: resultsOf(outcome),
      servers: timed.servers,
      record: (figures) => refinements.push(figures),
    });
    const refinementSeconds = timed.refinementSeconds();
    return { kind: "close", global: next, refinements, refinementSeconds };
  } catch (error) {
    // What the devices delivered does not make a round, such as too few updates for Krum: asking again may.
    if (!(error instanceof TrifoldError && error.code.startsWith("AGGREGATION_"))) throw error;
    return { kind: "reopen", reason: `${error.code}: ${error.message}` };
  }
}

/** Writes down that a round is closed, its metrics first: without the journal's word they are cut off after a crash. */
export async function recordClosed(
  { prepared, folder }: Run,
  { round, attempt }: RunPosition,
  ended: {
    readonly outcome: AttemptOutcome;
    readonly settled: Extract<Settled, { kind: "close" }>;
    readonly seconds: number;
  },
): Promise<ClosedRecord> {
  const { outcome, settled } = ended;
  const accepted = acceptedOf(outcome);
  const isAsynchronous = prepared.task.asynchronous !== undefined;
  const closed: ClosedRecord = {
    kind: "closed",
    round,
    attempt,
    accepted,
    ...(isAsynchronous ? { updates: updatesOf(outcome, round) } : {}),
    // Asynchronous rounds overlap: what one takes beside its devices is no figure of its own.
    ...(isAsynchronous ? { seconds: ended.seconds } : costsOf(ended)),
    ...truncationOf(settled.global),
  };
  const refined = settled.refinements.map(
    (figures): MetricsLine => ({ kind: "refinement", round, ...figures }),
  );
  await folder.metrics.append([...refined, ...deviceLines(round, outcome)]);
  await folder.journal.append(closed);
  return closed;
}

function costsOf({
  outcome,
  settled,
  seconds,
}: {
  readonly outcome: AttemptOutcome;
  readonly settled: Extract<Settled, { kind: "close" }>;
  readonly seconds: number;
}): RoundCosts {
  const { refinementSeconds } = settled;
  const deviceSeconds = outcome.lanes.map(
    ({ lane, report }) => lane.openingSeconds + (report()?.trainSeconds ?? 0),
  );
  const coordination = coordinationSeconds({ seconds, refinementSeconds, deviceSeconds });
  return { seconds, coordinationSeconds: coordination };
}

/** One line for each lane that ended. */
function deviceLines(round: number, { lanes }: AttemptOutcome): MetricsLine[] {
  return lanes.map(({ lane, report, isAccepted, staleness }) => {
    const { deviceId, protocol } = lane.assignment;
    const place = { kind: "device", round, deviceId, protocol } as const;
    return { ...place, isAccepted, staleness, ...report() };
  });
}

/** What the accepted lanes yield, in device-id and lane order, each with the rounds that it missed. Read one by one. */
async function* resultsOf({ lanes }: AttemptOutcome): AsyncIterable<YieldedResult> {
  for (const { lane, isAccepted, staleness } of lanes) {
    const result = isAccepted ? await lane.result() : undefined;
    if (result) yield { ...result, staleness };
  }
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

function truncationOf({ truncation }: GlobalModel): { readonly truncation?: number } {
  return truncation ? { truncation: Math.max(...truncation.values()) } : {};
}
