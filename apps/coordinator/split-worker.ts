// One worker process as the coordinator sees it: calls and their answers, and what becomes of them when it dies.
import { type ChildProcess, fork } from "node:child_process";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { TrifoldError } from "../../runtime/index.ts";
import { coordinatorErrors } from "./errors.ts";
import type {
  WorkerCall,
  WorkerCalls,
  WorkerReply,
  WorkerRequest,
  WorkerTask,
} from "./worker-calls.ts";

/** A process that runs lanes. */
export interface SplitWorker {
  readonly pid: number | undefined;
  /** False once the process has ended. */
  readonly isAlive: boolean;
  /** Rejects as the lane does, or with `LANE_WORKER_LOST` when the process ends first. */
  call<Kind extends WorkerCall>(
    kind: Kind,
    lane: number,
    ask: WorkerCalls[Kind]["ask"],
  ): Promise<WorkerCalls[Kind]["answer"]>;
  /** Ends the process; resolves once it has. */
  close(): Promise<void>;
}

/** How a worker is started. */
export interface WorkerOptions extends Omit<WorkerTask, "kind"> {
  /** For the log. */
  readonly name: string;
  readonly log: (line: string) => void;
}

/** Starts a worker. */
export function startWorker({ name, log, ...task }: WorkerOptions): SplitWorker {
  // The same file beside this one, `.js` once compiled.
  const program = new URL(`./split-worker-program${extname(import.meta.url)}`, import.meta.url);
  const child = fork(fileURLToPath(program), { serialization: "advanced" });
  const worker = new RunningWorker(child, name, log);
  child.send({ kind: "task", ...task } satisfies WorkerTask, () => {});
  return worker;
}

interface Waiting {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (reason: Error) => void;
}

class RunningWorker implements SplitWorker {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, Waiting>();
  readonly #ended: Promise<void>;
  #calls = 0;
  #isClosing = false;
  isAlive = true;

  constructor(child: ChildProcess, name: string, log: (line: string) => void) {
    this.#child = child;
    child.on("message", (reply: WorkerReply) => {
      if (reply.kind === "log") log(reply.line);
      else this.#settle(reply);
    });
    this.#ended = new Promise((resolve) => {
      const end = (how: string) => {
        if (!this.isAlive) return;
        this.isAlive = false;
        if (!this.#isClosing) log(`${name} ended by ${how}: its lanes begin anew`);
        this.#fail(workerLost(`${name} ended by ${how}`));
        resolve();
      };
      child.once("error", (error) => end(error.message));
      child.once("exit", (status, signal) => end(signal ?? `status ${status}`));
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  call<Kind extends WorkerCall>(
    kind: Kind,
    lane: number,
    ask: WorkerCalls[Kind]["ask"],
  ): Promise<WorkerCalls[Kind]["answer"]> {
    if (!this.isAlive) return Promise.reject(workerLost("its process has ended"));
    this.#calls += 1;
    const id = this.#calls;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as Waiting["resolve"], reject });
      // A channel that is closed means that the process ends, which rejects what waits.
      this.#child.send({ kind, id, lane, ask } as WorkerRequest, () => {});
    });
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    if (this.isAlive) this.#child.kill("SIGKILL");
    await this.#ended;
  }

  #settle(reply: Exclude<WorkerReply, { kind: "log" }>): void {
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if (reply.kind === "answer") waiting?.resolve(reply.answer);
    else waiting?.reject(errorOf(reply));
  }

  #fail(reason: Error): void {
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }
}

function errorOf({ code, message, hint }: Extract<WorkerReply, { kind: "error" }>): Error {
  if (code === undefined) return new Error(message);
  return new TrifoldError(code, message, hint === undefined ? {} : { hint });
}

function workerLost(what: string): Error {
  return coordinatorErrors.error("LANE_WORKER_LOST", `the lane's worker is gone: ${what}`, {
    hint: "Nothing need be done: the lane begins anew in another process.",
  });
}
