// What a person sees while a comparison runs: one line that renews itself on a terminal, and a line for each finished
// federation; in a log the finished ones, the rounds and the baselines.
import { createLogUpdate } from "log-update";
import { progressBar } from "../progress.ts";
import { labelOf } from "./comparison.ts";
import type { ComparisonProgress } from "./run-comparison.ts";
import { scoreIn } from "./score.ts";
import { scoreFormat } from "./verdicts.ts";

/** The comparison's audience. */
export interface ComparisonScreen {
  readonly progress: (progress: ComparisonProgress) => void;
  /** Leaves what was painted last. Safe to call twice. */
  close(): void;
}

/** A screen on a stream. */
export function createComparisonScreen(stream: NodeJS.WriteStream): ComparisonScreen {
  const paint = stream.isTTY ? createLogUpdate(stream, { showCursor: true }) : undefined;
  let at = { share: 0, what: "" };
  const show = (detail: string) =>
    paint?.(`${progressBar(at.share)} ${at.what}${detail}`.slice(0, (stream.columns || 80) - 1));
  const write = (text: string) => {
    paint?.clear();
    stream.write(`${text}\n`);
  };
  const progress = (told: ComparisonProgress): void => {
    if (told.kind === "run") {
      const { index, total, configuration, seed } = told;
      at = {
        share: (index - 1) / total,
        what: `${index} of ${total}: ${labelOf(configuration)}, seed ${seed}`,
      };
    }
    const line = lineOf(told, at.what);
    if (line !== undefined) write(line);
    show(detailOf(told));
  };
  return { progress, close: () => paint?.done() };
}

/** What stays: the finished rounds belong to the log of a federation, so only a stream that is no terminal gets them. */
function lineOf(told: ComparisonProgress, what: string): string | undefined {
  switch (told.kind) {
    case "run":
      return told.isKnown ? `${what}: finished before` : undefined;
    case "finished": {
      const { configuration, figures, metric } = told;
      const { seed, score, rounds } = figures;
      const seconds = rounds.reduce((sum, round) => sum + round.seconds, 0);
      return `${labelOf(configuration)}, seed ${seed}: ${scoreFormat(metric)(score)} after ${rounds.length} rounds in ${seconds.toFixed(0)} s`;
    }
    case "baseline": {
      const { name, seed, step, steps } = told;
      return step === steps ? `baseline ${name}, seed ${seed}: ${steps} steps` : undefined;
    }
    case "event":
      return undefined;
  }
}

function detailOf(told: ComparisonProgress): string {
  if (told.kind === "baseline") {
    const { name, step, steps } = told;
    return `, baseline ${name}: step ${step} of ${steps}`;
  }
  if (told.kind !== "event") return "";
  const { event } = told;
  switch (event.kind) {
    case "round":
      return `, round ${event.round} of ${event.rounds}`;
    case "scored": {
      const { metric, value } = scoreIn(event);
      return `, round ${event.round}: ${scoreFormat(metric)(value)}`;
    }
    case "waiting":
      return `, ${event.ready} of ${event.needed} devices are ready`;
    default:
      return "";
  }
}
