// How busy a board is from moment to moment: processors, memory and heat. A few files, no measurement.
import { type BoardState, readBoardState } from "./measure.ts";
import { readMemory } from "./processor.ts";
import { openSysroot, type Sysroot } from "./sysroot.ts";

/** What a board has to do now. What it cannot tell is absent. */
export interface BoardLoad extends BoardState {
  /** Share of all processors' time that was not idle since the last reading, since the start before the first; 0 to 1. */
  readonly cpuFraction?: number;
  /** All of its memory. */
  readonly totalBytes?: number;
}

/** Reads the load; each reading begins where the last one ended. */
export interface LoadMeter {
  read(): Promise<BoardLoad>;
}

/** A meter of the board below `root`. */
export function openLoadMeter(root = "/"): LoadMeter {
  const sysroot = openSysroot(root);
  let last: ProcessorTime = { busy: 0, all: 0 };
  return {
    read: async () => {
      const state = await readBoardState(root);
      const memory = await readMemory(sysroot);
      const time = await readProcessorTime(sysroot);
      const passed = time ? time.all - last.all : 0;
      const cpuFraction = time && passed > 0 ? (time.busy - last.busy) / passed : undefined;
      last = time ?? last;
      return {
        ...state,
        ...(memory ? { totalBytes: memory.totalBytes } : {}),
        ...(cpuFraction === undefined
          ? {}
          : { cpuFraction: Math.min(1, Math.max(0, cpuFraction)) }),
      };
    },
  };
}

/** In ticks since the start of the machine. */
interface ProcessorTime {
  readonly busy: number;
  readonly all: number;
}

/** proc(5), `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; guest times are part of user and nice. */
async function readProcessorTime(sysroot: Sysroot): Promise<ProcessorTime | undefined> {
  const line = /^cpu +([\d ]+)$/m.exec((await sysroot.text("/proc/stat")) ?? "")?.[1];
  const ticks = (line ?? "").trim().split(/ +/).slice(0, 8).map(Number);
  const [, , , idle, waiting = 0] = ticks;
  if (idle === undefined) return undefined;
  const all = ticks.reduce((sum, count) => sum + count, 0);
  return { all, busy: all - idle - waiting };
}
