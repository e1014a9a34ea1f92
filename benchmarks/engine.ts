// Suite `engine`: what a training step of GPT-2 124M shapes takes, against its own loss, against PyTorch and against
// what the project promises. The weights are random: time and memory do not depend on them.
import { withShape } from "../apps/bench/shape.ts";
import { defaultCacheFolder } from "../apps/cache-folder.ts";
import { interruptSignal } from "../apps/interrupt.ts";
import { clientRows } from "./client-rows.ts";
import { curveRows } from "./curve-rows.ts";
import { memoryRows } from "./memory-rows.ts";
import type { Row } from "./row.ts";
import { stallRows } from "./stall-rows.ts";
import { openSuite } from "./suite.ts";
import { timeRows } from "./time-rows.ts";

/**
 * Measures everything, each configuration in processes of its own: ten minutes and 0.75 GB of temporary files, which
 * are removed after Ctrl-C as well; rejects with the interruption then.
 */
export async function engineRows(log: (message: string) => void): Promise<readonly Row[]> {
  const { signal, close } = interruptSignal();
  const options = { cacheFolder: defaultCacheFolder(), keep: false, signal, log };
  try {
    return await withShape("gpt2-small", options, async (place) => {
      const suite = await openSuite(place, log);
      const rows: Row[] = [];
      for (const part of [timeRows, memoryRows, clientRows, stallRows, curveRows]) {
        signal.throwIfAborted();
        rows.push(...(await part(suite)));
      }
      return rows;
    });
  } catch (cause) {
    // The terminal's Ctrl-C ended the measuring process as well: that is no failure of its own.
    signal.throwIfAborted();
    throw cause;
  } finally {
    close();
  }
}
