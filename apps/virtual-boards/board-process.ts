// One virtual board: the device program in a process of its own.
import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** What a board reads. */
export interface BoardFiles {
  readonly id: string;
  /** CSV of its private texts. */
  readonly data: string;
  /** Its configuration (YAML). */
  readonly config: string;
  /** Whether the CSV has a column of labels. */
  readonly hasLabels: boolean;
}

/** How a board's process is started. */
export interface BoardProcessOptions {
  readonly files: BoardFiles;
  readonly brokerUrl: string;
  readonly federation: string;
  /** Takes devices/<id>.log and devices/<id>/. */
  readonly runFolder: string;
  readonly modelFolder?: string | undefined;
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

/** How a board is started; a process of its own unless a program has a reason for another way. */
export type StartBoard = (options: BoardProcessOptions) => Promise<BoardProcess>;

/** Starts `trifold device` for a board; its log goes to a file. */
export const startBoard: StartBoard = async (options) => {
  const { brokerUrl, federation, runFolder, modelFolder, cacheFolder } = options;
  const { id, data, config, hasLabels } = options.files;
  const folder = join(runFolder, "devices");
  const state = join(folder, id);
  await mkdir(state, { recursive: true });
  const program = fileURLToPath(
    new URL(`../cli.${import.meta.url.split(".").at(-1)}`, import.meta.url),
  );
  const model = modelFolder === undefined ? {} : { model: modelFolder };
  const flags = { broker: brokerUrl, id, federation, data, config, state, ...model };
  const args = [
    ...Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]),
    ...(hasLabels ? [] : ["--no-label-column"]),
  ];
  const child = spawn(process.execPath, [program, "device", ...args], {
    stdio: ["ignore", "pipe", "pipe", "ipc"],
    env: { ...process.env, TRIFOLD_CACHE: cacheFolder },
  });
  const file = createWriteStream(join(folder, `${id}.log`));
  child.stdout?.pipe(file, { end: false });
  child.stderr?.pipe(file, { end: false });
  return { id, pid: child.pid ?? 0, ended: ending(child), kill: () => void child.kill("SIGTERM") };
};

function ending(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("exit", (code, signal) => resolve(signal ?? String(code)));
  });
}
