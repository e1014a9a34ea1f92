// What a person sees while the demo runs: on a terminal one block that is repainted, elsewhere one line an
// event.
import { createLogUpdate } from "log-update";
import type { BaselineOptions } from "../baselines.ts";
import { eventText } from "../coordinator/event-text.ts";
import type { RunEvent } from "../coordinator/events.ts";
import { wrapText } from "../wrapped-text.ts";
import { emptyScreen, type ScreenInput, screenAfter, screenLines } from "./screen-state.ts";

/** The demo's audience. */
export interface Screen {
  readonly event: (event: RunEvent) => void;
  readonly baseline: BaselineOptions["onProgress"];
  readonly stage: (text: string) => void;
  readonly log: (message: string) => void;
  /** Leaves what was painted last. Safe to call twice. */
  close(): void;
}

/** A screen on a stream: repainted where it is a terminal. */
export function createScreen(stream: NodeJS.WriteStream, rounds: number): Screen {
  const write = (text: string) => void stream.write(`${text}\n`);
  return stream.isTTY ? paintedScreen(stream, rounds) : plainScreen(write);
}

function plainScreen(write: (text: string) => void): Screen {
  const event = (happened: RunEvent) => {
    const text = eventText(happened);
    if (text !== undefined) write(text);
  };
  const baseline: Screen["baseline"] = ({ name, step, steps }) => {
    if (step === steps) write(`baseline ${name}: ${steps} steps`);
  };
  return { event, baseline, stage: write, log: write, close: () => {} };
}

function paintedScreen(stream: NodeJS.WriteStream, rounds: number): Screen {
  // A hidden cursor would stay hidden after a kill.
  const paint = createLogUpdate(stream, { showCursor: true });
  let state = emptyScreen(rounds, performance.now());
  let isClosed = false;
  const show = () => {
    if (isClosed) return;
    paint(screenLines(state, { columns: columnsOf(stream), nowMs: performance.now() }).join("\n"));
  };
  const take = (input: ScreenInput) => {
    state = screenAfter(state, input, performance.now());
    show();
  };
  const above = (text: string) => {
    paint.clear();
    stream.write(`${wrapText(text, columnsOf(stream))}\n`);
    show();
  };
  // Seconds go on while nothing happens.
  const ticks = setInterval(show, 1000).unref();
  return {
    event: (happened) => {
      if (staysAbove.has(happened.kind)) above(eventText(happened) ?? "");
      take(happened);
    },
    baseline: (progress) => take({ kind: "baseline", ...progress }),
    stage: (text) => take({ kind: "stage", text }),
    log: above,
    close: () => {
      if (isClosed) return;
      show();
      isClosed = true;
      clearInterval(ticks);
      paint.done();
    },
  };
}

/** What a person may want to read later. */
const staysAbove: ReadonlySet<RunEvent["kind"]> = new Set([
  ...(["assigned", "resumed", "lost", "refused", "reopened"] as const),
]);

/** The last column stays free: terminals differ in what they do after a full line. */
function columnsOf(stream: NodeJS.WriteStream): number {
  return Math.max(20, (stream.columns || 80) - 1);
}
