// One virtual board: the device program in a process of its own, under the board's limits.
import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** How a board's process is started. */
export interface BoardProcessOptions {
  readonly id: string;
  readonly brokerUrl: string;
  readonly federation: string;
  /** Holds data/<id>.csv and devices/<id>.yaml; takes devices/<id>.log and devices/<id>/. */
  readonly runFolder: string;
  /** Shared by the boards of this machine: the same base model is converted once. */
  readonly cacheFolder: string;
}

/** A running board. */
export interface BoardProcess {
  readonly id: string;
  readonly pid: number;
  /** Resolves with the exit status, or the signal's name, once the process has ended. */
  readonly ended: Promise<string>;
  kill(): void;
}

/** Starts `trifold device` for a board; its log goes to a file. */
export async function startBoard(options: BoardProcessOptions): Promise<BoardProcess> {
  const { id, brokerUrl, federation, runFolder, cacheFolder } = options;
  const folder = join(runFolder, "devices");
  const state = join(folder, id);
  await mkdir(state, { recursive: true });
  const program = fileURLToPath(
    new URL(`../cli.${import.meta.url.split(".").at(-1)}`, import.meta.url),
  );
  const flags = {
    broker: brokerUrl,
    id,
    federation,
    data: join(runFolder, "data", `${id}.csv`),
    config: join(folder, `${id}.yaml`),
    state,
  };
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  const child = spawn(process.execPath, [program, "device", ...args], {
    stdio: ["ignore", "pipe", "pipe", "ipc"],
    env: { ...process.env, TRIFOLD_CACHE: cacheFolder },
  });
  const file = createWriteStream(join(folder, `${id}.log`));
  child.stdout?.pipe(file, { end: false });
  child.stderr?.pipe(file, { end: false });
  return { id, pid: child.pid ?? 0, ended: ending(child), kill: () => void child.kill("SIGTERM") };
}

function ending(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("exit", (code, signal) => resolve(signal ?? String(code)));
  });
}
