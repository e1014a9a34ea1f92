// Measurements in processes of their own: neither memory nor a warm cache of one shows in another. A probe
// program takes one question as its argument and answers on standard output, both JSON.
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { appErrors } from "../errors.ts";
import { failureText } from "../failure.ts";

/** Questions and answers by kind. */
export type Probes = Readonly<
  Record<string, { readonly question: object; readonly answer: unknown }>
>;

/** What answers each kind of question. */
export type ProbeTable<P extends Probes> = {
  readonly [K in keyof P]: (question: P[K]["question"]) => Promise<P[K]["answer"]>;
};

/** How a process is asked. */
export interface AskOptions {
  readonly signal?: AbortSignal;
  /** Puts the process under limits before it has taken any memory. */
  readonly admit?: (pid: number) => Promise<void>;
}

/** Asks a program in a new process; throws `BENCH_PROCESS_FAILED` with what it said when it ends without an answer. */
export async function askProgram<P extends Probes, K extends keyof P & string>(
  program: string,
  kind: K,
  question: P[K]["question"],
  { signal, admit }: AskOptions = {},
): Promise<P[K]["answer"]> {
  const command = [process.execPath, fileURLToPath(program), kind, JSON.stringify(question)];
  // The shell waits until it is admitted and then becomes the program: memory counts where it was first taken.
  const [file = "", ...args] = admit
    ? ["sh", "-c", 'read go && exec "$@"', "sh", ...command]
    : command;
  try {
    const answer = promisify(execFile)(file, args, signal === undefined ? {} : { signal });
    if (admit) {
      await admit(answer.child.pid ?? 0);
      answer.child.stdin?.end("go\n");
    }
    const { stdout } = await answer;
    return JSON.parse(stdout) as P[K]["answer"];
  } catch (cause) {
    signal?.throwIfAborted();
    throw processFailure(kind, cause);
  }
}

/** The program's side: answers its question when this file was started as the program. */
export async function answerAsProgram<P extends Probes>(
  program: string,
  table: ProbeTable<P>,
): Promise<void> {
  if (process.argv[1] !== fileURLToPath(program)) return;
  const [, , kind = "", question = "{}"] = process.argv;
  try {
    const answer = await table[kind]?.(JSON.parse(question) as P[string]["question"]);
    process.stdout.write(JSON.stringify(answer));
  } catch (error) {
    process.stderr.write(failureText(error));
    process.exitCode = 1;
  }
}

function processFailure(kind: string, cause: unknown): Error {
  const { stderr = "", code, signal } = cause as ProcessFailure;
  const said = stderr.trim() || "it said nothing";
  return appErrors.error(
    "BENCH_PROCESS_FAILED",
    `the process that measures ${kind} ended with ${signal ?? `status ${code}`}: ${said}`,
    { hint: "SIGKILL without a word means that memory ran out: lower --batch or --seq.", cause },
  );
}

interface ProcessFailure {
  readonly stderr?: string;
  readonly code?: number | string | null;
  readonly signal?: string | null;
}
