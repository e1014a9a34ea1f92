// Progress of something with a known number of steps: one line that renews itself on a terminal, a line for
// each tenth elsewhere, so that logs stay short.
import { createLogUpdate } from "log-update";

/** A progress line in use. */
export interface Progress {
  /** Shows that `done` steps are done. */
  update(done: number, state: ProgressState): void;
  /** Leaves the last line as it is. */
  close(): void;
}

/** What is shown beside the count. */
export interface ProgressState {
  readonly loss: number;
  /** Tokens seen since the start of the clock. */
  readonly tokens: number;
}

/** What a progress line is made of. */
export interface ProgressOptions {
  readonly total: number;
  /** Steps that were done before the clock started; 0 when left out. */
  readonly before?: number;
  readonly stream: NodeJS.WriteStream;
  /** Milliseconds of a steady clock. */
  readonly now?: () => number;
}

/** Starts the clock; nothing is written before the first update. */
export function createProgress({
  total,
  before = 0,
  stream,
  now = () => performance.now(),
}: ProgressOptions): Progress {
  const startMs = now();
  const lines = progressLines(stream);
  let loss: number | undefined;
  return {
    update: (done, state) => {
      // Single batches scatter; the eye wants the trend.
      loss = loss === undefined ? state.loss : 0.9 * loss + 0.1 * state.loss;
      const seconds = (now() - startMs) / 1000;
      lines.show(
        done / total,
        progressText({ done, before, total, loss, seconds, tokens: state.tokens }),
      );
    },
    close: () => lines.close(),
  };
}

/** `[#####.....] 50/100 steps, loss 0.412, 2100 tokens/s, 0:12 left`. */
export function progressText({
  done,
  before,
  total,
  loss,
  seconds,
  tokens,
}: ProgressState & {
  readonly done: number;
  readonly before: number;
  readonly total: number;
  readonly seconds: number;
}): string {
  const rate = seconds > 0 ? tokens / seconds : 0;
  const left = formatSeconds((seconds / Math.max(1, done - before)) * (total - done));
  return `${progressBar(done / total)} ${done}/${total} steps, loss ${loss.toFixed(3)}, ${rate.toFixed(0)} tokens/s, ${left} left`;
}

/** `[#####.....]` of the share that is done, 0 to 1. */
export function progressBar(share: number): string {
  const filled = Math.round(barWidth * share);
  return `[${"#".repeat(filled)}${".".repeat(barWidth - filled)}]`;
}

/** Where the lines of one progress go. */
export interface ProgressLines {
  /** Shows a text; `share` of the work is done, 0 to 1. */
  show(share: number, text: string): void;
  /** Leaves the last line as it is. */
  close(): void;
}

/** One line that renews itself on a terminal, a line for each tenth elsewhere. */
export function progressLines(stream: NodeJS.WriteStream): ProgressLines {
  return stream.isTTY ? terminalLines(stream) : logLines(stream);
}

const barWidth = 24;

function terminalLines(stream: NodeJS.WriteStream): ProgressLines {
  const line = createLogUpdate(stream);
  return { show: (_share, text) => line(text), close: () => line.done() };
}

function logLines(stream: NodeJS.WriteStream): ProgressLines {
  let shown = 0;
  return {
    show: (share, text) => {
      const tenth = Math.floor(10 * share);
      if (tenth <= shown) return;
      shown = tenth;
      stream.write(`${text}\n`);
    },
    close: () => undefined,
  };
}

function formatSeconds(seconds: number): string {
  const whole = Math.ceil(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
