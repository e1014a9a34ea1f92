// The global model's score after each round, computed while the devices already train the next one.
import type { Example, Parameters, Score, Scorer } from "../../runtime/index.ts";
import type { OnEvent } from "./events.ts";
import type { ClosedRecord, ScoredRecord } from "./journal.ts";
import type { RunFolder } from "./run-folder.ts";

/** Scores closed rounds, one at a time and in their order. */
export interface Scoring {
  /** Begins with a round that the journal calls closed, once the one before is scored. */
  begin(closed: ClosedRecord, parameters: Parameters): void;
  /** Resolves once the journal holds the score of every round that was begun, with the last one; rejects if one failed. */
  settled(): Promise<Score | undefined>;
  /** Gives up what is under way. Safe to call twice. */
  close(): Promise<void>;
}

/** What rounds are scored with. */
export interface ScoringOptions {
  readonly scorer: Pick<Scorer, "run">;
  readonly testSet: readonly Example[];
  readonly folder: Pick<RunFolder, "journal" | "metrics" | "checkpoint">;
  readonly signal: AbortSignal;
  readonly onEvent: OnEvent;
}

/** Begins with the round that a crash left without its score, from its checkpoint. */
export function openScoring(options: ScoringOptions): Scoring {
  const { records } = options.folder.journal;
  const { checkpoint } = options.folder;
  const ending = new AbortController();
  const signal = AbortSignal.any([options.signal, ending.signal]);
  const closed = records.findLast((record) => record.kind === "closed");
  const known = records.findLast((record) => record.kind === "scored");
  let last: Promise<ScoredRecord | undefined> = Promise.resolve(known);
  const begin = (record: ClosedRecord, parameters: Parameters): void => {
    last = last.then(() => scoreRound({ ...options, signal }, record, parameters));
    // Whoever awaits it hears of it.
    last.catch(() => {});
  };
  if (closed && checkpoint && closed.round !== known?.round) begin(closed, checkpoint.parameters);
  return {
    begin,
    settled: async () => {
      const scored = await last;
      return scored && scoreOf(scored);
    },
    close: async () => {
      ending.abort(new Error("the run has ended"));
      await last.catch(() => {});
    },
  };
}

/** The line of metrics first: without the journal's word it is cut off after a crash. */
async function scoreRound(
  { scorer, testSet, folder, signal, onEvent }: ScoringOptions,
  { kind: _, accepted, attempt: __, updates: ___, ...closed }: ClosedRecord,
  parameters: Parameters,
): Promise<ScoredRecord> {
  const started = performance.now();
  const score = await scorer.run(parameters, testSet, signal);
  const scoringSeconds = (performance.now() - started) / 1000;
  const { round, ...costs } = closed;
  const devices = Object.keys(accepted).length;
  const line = { kind: "round", round, devices, ...score, ...costs, scoringSeconds } as const;
  await folder.metrics.append([line]);
  const scored: ScoredRecord = { kind: "scored", round, ...score, scoringSeconds };
  await folder.journal.append(scored);
  onEvent({ kind: "scored", round, ...score });
  return scored;
}

function scoreOf({ accuracy, perplexity }: ScoredRecord): Score {
  return accuracy === undefined ? { perplexity } : { accuracy };
}
