// What a finished run tells its people: one shape for every run, as report.json and drawn as report.html.
import type { Task } from "../../protocols/index.ts";
import type { Score } from "../../runtime/index.ts";
import type { JournalRecord } from "../coordinator/journal.ts";
import { packageVersion } from "../package-root.ts";
import { type RunSummary, summarise } from "./run-summary.ts";

/** Everything report.json holds. Fractions are 0..1, bytes are whole numbers. */
export interface RunReport extends RunSummary, RunSurroundings {
  /** Of the global model on the test set after the last round; absent before the first and for language models. */
  readonly accuracy?: number;
  /** The same of a language model. */
  readonly perplexity?: number;
  readonly task: Task;
  /** Of Trifold. */
  readonly version: string;
  /** When the report was made, ISO 8601. */
  readonly date: string;
}

/** What only the program that started the run knows; all of it may be absent. */
export interface RunSurroundings {
  /** What the global model is compared with, on the same test set. */
  readonly baselines?: readonly Baseline[];
  /** What the devices ran on, when that was one machine. */
  readonly machine?: string;
  /** What a reader must know to judge the figures. */
  readonly notes?: readonly string[];
}

/** Another way to train the same model. */
export type Baseline = Score & { readonly name: string };

/** The report of a run, from its journal. */
export function runReport(
  records: readonly JournalRecord[],
  task: Task,
  surroundings: RunSurroundings = {},
): RunReport {
  const summary = summarise(records);
  const { accuracy, perplexity } = summary.rounds.at(-1) ?? {};
  return {
    ...(accuracy === undefined ? {} : { accuracy }),
    ...(perplexity === undefined ? {} : { perplexity }),
    ...summary,
    ...surroundings,
    task,
    version: packageVersion(),
    date: new Date().toISOString(),
  };
}
