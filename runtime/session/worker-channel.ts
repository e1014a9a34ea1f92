// Questions to a worker thread and their answers, one at a time and in order. Knows nothing of ONNX Runtime,
// but one thing of native code: a thread that is stopped inside it takes the process down ("terminate called
// after throwing an instance of 'Napi::Error'"). So the thread is only ever stopped between two calls.
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { TrifoldError } from "../errors.ts";
import type { CallKind, Reply, Request, WorkerCalls } from "./worker-calls.ts";

/** A worker thread that answers calls one after another. */
export interface WorkerChannel {
  /** Resolves with the worker's answer; rejects with the text of its failure, or when it stopped. Buffers in `transfer` are handed over. */
  ask<K extends CallKind>(
    kind: K,
    body: WorkerCalls[K]["request"],
    transfer?: readonly ArrayBuffer[],
  ): Promise<WorkerCalls[K]["reply"]>;
  /** Rejects what is not answered and stops the thread as soon as its present call ends; safe to call twice. */
  close(): Promise<void>;
  /** Like `close`, but with a reason of the caller's, and neither it nor a `close` waits for the present call. */
  abandon(reason: Error): void;
}

/** What the thread gets at its start: one word, 1 while it computes, set to 0 and notified when it is done. */
export interface WorkerStart {
  readonly busy: Int32Array;
}

interface Call {
  readonly request: Request;
  readonly transfer: readonly ArrayBuffer[];
  readonly resolve: (body: WorkerCalls[CallKind]["reply"]) => void;
  readonly reject: (cause: Error) => void;
}

/** Starts a worker thread. It keeps the process alive only while it owes an answer. */
export function openWorkerChannel(file: URL): WorkerChannel {
  const busy = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  const start: WorkerStart = { busy };
  const worker = new Worker(file, {
    name: "trifold-session",
    workerData: start,
    ...threadArguments(),
  });
  const queue: Call[] = [];
  const abandoned = new AbortController();
  let stopped: Error | undefined;
  let closing: Promise<void> | undefined;

  const next = () => {
    const call = queue[0];
    if (!call) return worker.unref();
    worker.ref();
    Atomics.store(busy, 0, 1);
    worker.postMessage(call.request, call.transfer);
  };
  const stop = (cause: Error) => {
    stopped ??= cause;
    for (const { reject } of queue.splice(0)) reject(stopped);
  };
  const close = async (reason: Error) => {
    stop(reason);
    await Promise.race([endThread(worker, busy), aborted(abandoned.signal)]);
  };
  worker.unref();
  worker.on("message", (reply: Reply) => {
    const call = queue.shift();
    if (reply.kind === "done") call?.resolve(reply.body);
    else call?.reject(failureOf(reply));
    next();
  });
  const gone = (cause: Error) => {
    Atomics.store(busy, 0, 0);
    computations.delete(busy);
    stop(cause);
  };
  worker.on("error", (cause) =>
    gone(new Error(`The worker thread died: ${cause.message}`, { cause })),
  );
  worker.on("exit", (code) => gone(new Error(`The worker thread stopped with code ${code}`)));
  waitBeforeExit(busy);

  return {
    ask: (kind, body, transfer = []) =>
      new Promise((resolve, reject) => {
        if (stopped) return reject(stopped);
        // Tags and bodies match by the signature of `ask`, and an answer fits its question by the worker's table.
        const request = { kind, body } as Request;
        queue.push({ request, transfer, resolve: resolve as Call["resolve"], reject });
        if (queue.length === 1) next();
      }),
    close: () => {
      closing ??= close(new Error("The engine is closed"));
      return closing;
    },
    abandon: (reason) => {
      closing ??= close(reason);
      abandoned.abort();
      // Nobody waits for its answer any more.
      worker.unref();
    },
  };
}

/** The process's own, by being left out: a list may not hold options of V8, such as `--max-old-space-size`. */
function threadArguments(): { readonly execArgv?: string[] } {
  // `node --input-type=module -e ...` would forbid the thread its file.
  const isText = process.execArgv.some((argument) => argument.startsWith("--input-type"));
  return isText ? { execArgv: [] } : {};
}

function failureOf({ message, code }: Extract<Reply, { kind: "failed" }>): Error {
  return code === undefined ? new Error(message) : new TrifoldError(code, message);
}

/** Ends the thread once it is outside native code. */
async function endThread(worker: Worker, busy: Int32Array): Promise<void> {
  if (Atomics.load(busy, 0) === 1) {
    const ends = [once(worker, "message"), once(worker, "exit")];
    // `once` rejects when the thread dies meanwhile, which is an end as well.
    await Promise.race(ends).catch(() => undefined);
  }
  await worker.terminate();
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

const computations = new Set<Int32Array>();
const longestWaitMs = 60_000;

/**
 * Waits, blocking, until no engine's thread is inside native code, for at most `limitMs`; false when one still is.
 * Ending the process then takes a signal, which the kernel carries out: a normal exit would wait on (`ortEngine`).
 */
export function awaitComputations(limitMs: number): boolean {
  const endMs = performance.now() + limitMs;
  return [...computations].every(
    (busy) => Atomics.wait(busy, 0, 1, Math.max(0, endMs - performance.now())) !== "timed-out",
  );
}

/** `process.exit()` and uncaught errors stop threads too: lets the present call end first. */
function waitBeforeExit(busy: Int32Array): void {
  computations.add(busy);
  // One listener for all threads.
  process.off("exit", waitForAll);
  process.once("exit", waitForAll);
}

function waitForAll(): void {
  awaitComputations(longestWaitMs);
}
