// Ctrl-C as an AbortSignal, for commands that have something to save or to close, and how such a process ends.
import { interruption } from "./failure.ts";

/** What told the process to stop; a parent that is gone counts as SIGTERM. */
let received: NodeJS.Signals | undefined;

/**
 * Aborts at the first SIGINT or SIGTERM, with an interruption as the reason; a second one ends the process at
 * once. A process that was started with a channel to its parent (the demo's boards) also stops when the parent is
 * gone, however it ended. `close` gives the signals back.
 */
export function interruptSignal(): { readonly signal: AbortSignal; close(): void } {
  const controller = new AbortController();
  const close = () => {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
    process.off("disconnect", orphaned);
  };
  const stop = (name: NodeJS.Signals) => {
    close();
    received = name;
    controller.abort(interruption());
  };
  const orphaned = () => stop("SIGTERM");
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  process.on("disconnect", orphaned);
  // Listening must not keep a process alive that has nothing else to do.
  process.channel?.unref();
  return { signal: controller.signal, close };
}

/** A native call that ends within this time is let end, so that the exit status can be ours. */
const graceMs = 500;

/**
 * Called when the program has saved and closed what it had. If a signal stopped it and native code still computes,
 * the process dies of that signal (130 or 143 to a shell): its exit would wait for the call, because a thread that
 * is stopped inside native code aborts the process, while the kernel ends all threads at once. Otherwise it returns.
 */
export async function endInterrupted(): Promise<void> {
  if (received === undefined) return;
  const { awaitComputations } = await import("../runtime/index.ts");
  if (awaitComputations(graceMs)) return;
  // Without listeners, those of foreign code included, a signal has its default effect. Process 1 of a container is
  // spared by the kernel and exits as usual.
  process.removeAllListeners(received);
  process.kill(process.pid, received);
}
