// Ctrl-C as an AbortSignal, for commands that have something to save or to close.
import { interruption } from "./failure.ts";

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
    process.off("disconnect", stop);
  };
  const stop = () => {
    close();
    controller.abort(interruption());
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  process.on("disconnect", stop);
  // Listening must not keep a process alive that has nothing else to do.
  process.channel?.unref();
  return { signal: controller.signal, close };
}
