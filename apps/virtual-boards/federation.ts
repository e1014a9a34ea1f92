// A federation on one machine, with real parts: broker and coordinator run here, each board is the device program
// in a process of its own.
import { join } from "node:path";
import type { OnEvent, RunEvent } from "../coordinator/events.ts";
import { type CoordinatorResult, startCoordinator } from "../coordinator/start.ts";
import {
  type BoardFiles,
  type BoardProcess,
  type StartBoard,
  startBoard,
} from "./board-process.ts";
import { virtualBoardErrors } from "./errors.ts";

/** What a federation on this machine is run with. */
export interface VirtualFederation {
  readonly taskFile: string;
  /** Gone on with when it holds an unfinished run of the task; takes the boards' logs and states in devices/. */
  readonly runFolder: string;
  readonly boards: readonly BoardFiles[];
  /** Processes when left out. */
  readonly start?: StartBoard | undefined;
  /** Base model that boards are pointed at; without one they find the embedded one. */
  readonly modelFolder?: string | undefined;
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
  readonly onEvent: OnEvent;
  /** Told of each board's process once it runs. */
  readonly onBoard?: (id: string, pid: number) => Promise<void>;
  readonly log: (message: string) => void;
}

/**
 * Runs the task to its end; the first board that fails ends all. Rejects with the signal's reason when stopped, all
 * processes ended.
 */
export async function runVirtualFederation(options: VirtualFederation): Promise<CoordinatorResult> {
  const { taskFile, runFolder, cacheFolder, log, start = startBoard } = options;
  const boards: BoardProcess[] = [];
  const failed = new AbortController();
  const signal = AbortSignal.any([options.signal, failed.signal]);
  const startBoards = async (brokerUrl: string): Promise<void> => {
    for (const files of options.boards) {
      // Stopped while they were being started: nobody would end those that come after.
      if (signal.aborted) return;
      const board = await start({ ...options, files, brokerUrl, federation });
      boards.push(board);
      void board.ended.then((status) => {
        if (status !== "0") failed.abort(boardFailure(board.id, status, runFolder));
      });
      await options.onBoard?.(board.id, board.pid);
    }
  };
  const onEvent = (event: RunEvent): void => {
    options.onEvent(event);
    if (event.kind === "refused") failed.abort(refusal(event));
  };
  let starting: Promise<void> = Promise.resolve();
  try {
    return await startCoordinator({
      task: taskFile,
      run: runFolder,
      federation,
      listen: ["mqtt://127.0.0.1:0"],
      anonymous: true,
      // Boards wait while the coordinator folds a round, so it may use what they leave.
      threads: 2,
      cacheFolder,
      signal,
      onEvent,
      onListening: (url) => {
        starting = startBoards(url).catch((error: unknown) => failed.abort(error));
      },
      log,
    });
  } finally {
    failed.abort(new Error("the federation has ended"));
    await starting;
    for (const board of boards) board.kill();
    await Promise.all(boards.map(({ ended }) => ended));
  }
}

/** Each has a broker of its own, so the name separates nothing. */
const federation = "virtual";

function boardFailure(id: string, status: string, runFolder: string): Error {
  return virtualBoardErrors.error(
    "VIRTUAL_BOARD_FAILED",
    `the process of ${id} ended with ${status}`,
    { hint: `Its log is ${join(runFolder, "devices", `${id}.log`)}.` },
  );
}

function refusal(event: Extract<RunEvent, { kind: "refused" }>): Error {
  return virtualBoardErrors.error(
    "VIRTUAL_BOARD_FAILED",
    `${event.deviceId}: ${event.code}: ${event.message}`,
  );
}
