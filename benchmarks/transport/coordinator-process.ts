// A coordinator with its broker in a process of its own, so that a benchmark can measure and kill it.
import { defaultCacheFolder } from "../../apps/cache-folder.ts";
import { startCoordinator } from "../../apps/coordinator/start.ts";

const [task = "", run = "", listen = ""] = process.argv.slice(2);
const say = (message: CoordinatorWord) => process.send?.(message);

/** What the process tells. */
export type CoordinatorWord =
  | { readonly kind: "listening"; readonly url: string }
  | { readonly kind: "ready"; readonly deviceId: string }
  | { readonly kind: "finished" };

const ending = new AbortController();
process.once("disconnect", () => ending.abort(new Error("the benchmark is over")));
await startCoordinator({
  task,
  run,
  federation: "main",
  ...(listen.startsWith("at ")
    ? { broker: listen.slice(3), trustBroker: true }
    : { listen: [listen], anonymous: true }),
  threads: 1,
  cacheFolder: defaultCacheFolder(),
  signal: ending.signal,
  onEvent: (event) => {
    if (event.kind === "assigned") say({ kind: "ready", deviceId: event.deviceId });
  },
  onListening: (url) => say({ kind: "listening", url }),
  log: () => {},
});
say({ kind: "finished" });
process.disconnect?.();
