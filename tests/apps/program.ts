// The program as a person runs it: a process with its own standard streams.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

/** What a finished process left. */
export interface Finished {
  /** Exit status; null when a signal ended it. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A process of the program; `finished` resolves when it ended. */
export interface Running {
  readonly process: ReturnType<typeof spawn>;
  readonly finished: Promise<Finished>;
  /** Resolves once standard error holds a match, with all of it; rejects when the process ends without. */
  said(pattern: RegExp): Promise<string>;
}

/** What the system refuses the program. */
export interface ProgramLimits {
  /** Largest file that it may write, in blocks of 1024 bytes (`ulimit -f` of bash). */
  readonly fileBlocks?: number;
}

/** Starts `trifold` with these arguments and additional environment variables. */
export function startTrifold(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  { fileBlocks }: ProgramLimits = {},
): Running {
  const program = fileURLToPath(new URL("../../apps/cli.js", import.meta.url));
  const command = [process.execPath, program, ...args];
  // The test runner's own notes on each process would not fit either; a signal would end it before it could say why.
  const limit = [
    ...["bash", "-c"],
    `unset NODE_OPTIONS; trap "" XFSZ; ulimit -f ${fileBlocks}; exec "$0" "$@"`,
  ];
  const [file = "", ...rest] = fileBlocks === undefined ? command : [...limit, ...command];
  const child = spawn(file, rest, {
    env: { ...process.env, TRIFOLD_DEBUG: "", ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  const finished = Promise.all([ended, text(child.stdout), text(child.stderr)]).then(
    ([status, stdout, stderr]) => ({ status, stdout, stderr }),
  );
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    log += chunk;
  });
  const said = async (pattern: RegExp): Promise<string> => {
    let isEnded = false;
    void finished.finally(() => {
      isEnded = true;
    });
    while (!pattern.test(log)) {
      if (isEnded) throw new Error(`the program ended without saying ${pattern}:\n${log}`);
      await Promise.race([once(child.stderr, "data"), finished]);
    }
    return log;
  };
  return { process: child, finished, said };
}

/** Runs `trifold` to its end. */
export async function runTrifold(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<Finished> {
  return await startTrifold(args, environment).finished;
}
