// What the demo's screen shows, as a pure function of what has happened, and that as lines of text.
import { formatQuantity } from "../../devices/index.ts";
import type { RunEvent } from "../coordinator/events.ts";

/** Everything that is on the screen. */
export interface ScreenState {
  /** What the demo does now. */
  readonly stage: string;
  /** When it began, on the clock of `screenAfter`. */
  readonly startedMs: number;
  /** 0 before the first. */
  readonly round: number;
  readonly rounds: number;
  /** Of the global model, 0..1, by round. */
  readonly accuracies: ReadonlyMap<number, number>;
  readonly boards: ReadonlyMap<string, BoardState>;
  readonly baselines: ReadonlyMap<string, { readonly step: number; readonly steps: number }>;
}

/** One board's row. */
export interface BoardState {
  readonly board: string;
  readonly framework: string;
  readonly activity: string;
  /** Since when it trains; absent while it does not. */
  readonly trainingSinceMs?: number;
}

/** What changes the screen. */
export type ScreenInput =
  | RunEvent
  | { readonly kind: "stage"; readonly text: string }
  | {
      readonly kind: "baseline";
      readonly name: string;
      readonly step: number;
      readonly steps: number;
    };

/** A screen before anything has happened. */
export function emptyScreen(rounds: number, nowMs: number): ScreenState {
  const none = { accuracies: new Map(), boards: new Map(), baselines: new Map() };
  return { stage: "", startedMs: nowMs, round: 0, rounds, ...none };
}

/** The screen after something happened; `nowMs` is any steady clock. */
export function screenAfter(state: ScreenState, input: ScreenInput, nowMs: number): ScreenState {
  switch (input.kind) {
    case "stage":
      return { ...state, stage: input.text };
    case "waiting":
      return { ...state, stage: `waiting for boards: ${input.ready} of ${input.needed} are ready` };
    case "round":
      return { ...state, stage: "training", round: input.round, rounds: input.rounds };
    case "scored": {
      const { round, accuracy } = input;
      return { ...state, accuracies: new Map(state.accuracies).set(round, accuracy ?? 0) };
    }
    case "finished":
      return { ...state, stage: "finished" };
    case "baseline": {
      const { name, step, steps } = input;
      return { ...state, baselines: new Map(state.baselines).set(name, { step, steps }) };
    }
    case "resumed":
    case "closed":
    case "reopened":
      return state;
    default: {
      // After the last round boards leave because they were told to.
      if (input.kind === "gone" && state.accuracies.has(state.rounds)) return state;
      const known = state.boards.get(input.deviceId) ?? noBoard;
      const boards = new Map(state.boards);
      return { ...state, boards: boards.set(input.deviceId, boardAfter(known, input, nowMs)) };
    }
  }
}

/** The screen as lines, none longer than `columns` characters. */
export function screenLines(
  state: ScreenState,
  { columns, nowMs }: { readonly columns: number; readonly nowMs: number },
): string[] {
  const { stage, round, rounds, accuracies, boards, baselines } = state;
  const clock = clockText((nowMs - state.startedMs) / 1000);
  const reached = [...accuracies.values()].map((accuracy) => accuracy.toFixed(3)).join("  ");
  const title = `${clock}  ${stage}`;
  const progress = [`round ${round} of ${rounds}   accuracy  ${reached || "-"}`];
  const idWidth = Math.max(0, ...[...boards.keys()].map((id) => id.length));
  const inOrder = [...boards].sort(([a], [b]) => (a < b ? -1 : 1));
  const rows = inOrder.map(
    ([id, { framework, board, ...row }]) =>
      `  ${id.padEnd(idWidth)}  ${framework.padEnd(5)}  ${activityText(row, nowMs).padEnd(32)}  ${board}`,
  );
  const trained = [...baselines].map(
    ([name, { step, steps }]) =>
      `  ${name.padEnd(18)}  ${bar(step / steps)}  ${step} of ${steps} steps`,
  );
  const lines = [title, ...(round > 0 ? progress : []), ...rows, ...trained];
  return lines.map((line) => cut(line.trimEnd(), columns));
}

const noBoard: BoardState = { board: "", framework: "", activity: "" };

type BoardEvent = Extract<RunEvent, { readonly deviceId: string }>;

function boardAfter(known: BoardState, event: BoardEvent, nowMs: number): BoardState {
  const { trainingSinceMs = nowMs, ...idle } = known;
  switch (event.kind) {
    case "joining":
    case "provisioning":
      return { ...idle, activity: "joining" };
    case "assigned": {
      const framework = event.selection.assignment?.protocol ?? "";
      return { board: event.board, framework, activity: "ready" };
    }
    case "started":
      return { ...idle, activity: "training", trainingSinceMs: nowMs };
    case "progress":
      return { ...idle, activity: `training, ${event.messages} messages`, trainingSinceMs };
    case "reported": {
      const { loss, trainSeconds, uplinkBytes } = event.report;
      const up = formatQuantity(uplinkBytes, "bytes");
      return {
        ...idle,
        activity: `loss ${loss.toFixed(3)}, ${trainSeconds.toFixed(1)} s, ${up} up`,
      };
    }
    case "revised":
      return { ...idle, framework: event.to, activity: "ready" };
    case "kept":
      return known;
    case "gone":
      return { ...idle, activity: "gone" };
    case "lost":
      return { ...idle, activity: "left out of this round" };
    case "dropped":
      return { ...idle, activity: "was too late, begins again" };
    case "refused":
      return { ...idle, activity: "cannot take part" };
  }
}

/** Training shows its seconds, so that the screen moves while a board computes in silence. */
function activityText(
  { activity, trainingSinceMs }: Pick<BoardState, "activity" | "trainingSinceMs">,
  nowMs: number,
): string {
  if (trainingSinceMs === undefined) return activity;
  return `${activity}, ${Math.floor((nowMs - trainingSinceMs) / 1000)} s`;
}

function bar(fraction: number): string {
  const width = 24;
  const filled = Math.round(width * fraction);
  return `[${"#".repeat(filled)}${".".repeat(width - filled)}]`;
}

/** 75 s as "1:15". */
function clockText(seconds: number): string {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function cut(line: string, columns: number): string {
  const characters = [...line];
  return characters.length <= columns ? line : `${characters.slice(0, columns - 1).join("")}…`;
}
