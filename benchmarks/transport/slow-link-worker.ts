// A slow link in a thread of its own, so that what the ends compute does not slow it down further.
import { parentPort, workerData } from "node:worker_threads";
import { type SlowLinkOptions, startSlowLink } from "./slow-link.ts";

const link = await startSlowLink(workerData as SlowLinkOptions);
parentPort?.postMessage(link.port);
parentPort?.once("message", () => {
  void link.close().then(() => process.exit(0));
});
