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

/** Asks a program in a new process; throws `BENCH_PROCESS_FAILED` with what it said when it ends without an answer. */
export async function askProgram<P extends Probes, K extends keyof P & string>(
  program: string,
  kind: K,
  question: P[K]["question"],
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<P[K]["answer"]> {
  const args = [fileURLToPath(program), kind, JSON.stringify(question)];
  try {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      args,
      signal === undefined ? {} : { signal },
    );
    return JSON.parse(stdout) as P[K]["answer"];
  } catch (cause) {
    signal?.throwIfAborted();
    const { stderr = "", code, signal: killer } = cause as ProcessFailure;
    const end = killer ?? `status ${code}`;
    throw appErrors.error(
      "BENCH_PROCESS_FAILED",
      `the process that measures ${kind} ended with ${end}: ${stderr.trim() || "it said nothing"}`,
      { hint: "SIGKILL without a word means that memory ran out: lower --batch or --seq.", cause },
    );
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

interface ProcessFailure {
  readonly stderr?: string;
  readonly code?: number | string | null;
  readonly signal?: string | null;
}
