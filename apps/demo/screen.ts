// What a person sees while the demo runs: on a terminal one block that is repainted, elsewhere one line an
// event.
import { createLogUpdate } from "log-update";
import { formatQuantity } from "../../devices/index.ts";
import { eventText } from "../coordinator/event-text.ts";
import type { RunEvent } from "../coordinator/events.ts";
import type { BaselineOptions } from "./baselines.ts";

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

interface BoardLine {
  readonly id: string;
  board: string;
  framework: string;
  state: string;
}

function paintedScreen(stream: NodeJS.WriteStream, rounds: number): Screen {
  const paint = createLogUpdate(stream, { showCursor: true });
  const boards = new Map<string, BoardLine>();
  const baselines = new Map<string, string>();
  const accuracies: string[] = [];
  let stage = "";
  let round = 0;
  let closed = false;
  const show = () => {
    if (closed) return;
    const rows = [...boards.values()].map(
      ({ id, board, framework, state }) =>
        `  ${id.padEnd(12)} ${board.slice(0, 26).padEnd(27)} ${framework.padEnd(6)} ${state}`,
    );
    const progress =
      round > 0 ? [`round ${round} of ${rounds}   accuracy ${accuracies.join("  ") || "-"}`] : [];
    const trained = [...baselines].map(([name, state]) => `  ${name.padEnd(20)} ${state}`);
    paint([stage, ...progress, ...rows, ...trained].join("\n"));
  };
  const line = (id: string): BoardLine => {
    const known = boards.get(id) ?? { id, board: "", framework: "", state: "" };
    boards.set(id, known);
    return known;
  };
  const above = (text: string) => {
    paint.clear();
    stream.write(`${text}\n`);
    show();
  };
  const event = (happened: RunEvent): void => {
    apply(happened);
    show();
  };
  const apply = (happened: RunEvent): void => {
    switch (happened.kind) {
      case "joining":
        line(happened.deviceId).state = "joining";
        break;
      case "assigned": {
        above(eventText(happened) ?? "");
        const framework = happened.selection.assignment?.protocol ?? "";
        Object.assign(line(happened.deviceId), {
          board: happened.board,
          framework,
          state: "ready",
        });
        break;
      }
      case "round":
        round = happened.round;
        stage = "training";
        break;
      case "started":
        line(happened.deviceId).state = "training";
        break;
      case "progress":
        line(happened.deviceId).state = `training, ${happened.messages} messages`;
        break;
      case "reported": {
        const { loss, trainSeconds, uplinkBytes } = happened.report;
        line(happened.deviceId).state =
          `loss ${loss.toFixed(3)}, ${trainSeconds.toFixed(1)} s, ${formatQuantity(uplinkBytes, "bytes")} up`;
        break;
      }
      case "closed":
        accuracies.push(happened.accuracy.toFixed(3));
        break;
      case "gone":
        line(happened.deviceId).state = "gone";
        break;
      case "lost":
      case "refused":
      case "reopened":
        above(eventText(happened) ?? "");
        break;
    }
  };
  return {
    event,
    baseline: ({ name, step, steps }) => {
      baselines.set(name, step === steps ? "done" : `step ${step} of ${steps}`);
      show();
    },
    stage: (text) => {
      stage = text;
      show();
    },
    log: above,
    close: () => {
      if (closed) return;
      closed = true;
      paint.done();
    },
  };
}
