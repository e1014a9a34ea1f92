// One owner for a run folder: a lock file that names a living process. A lock left by a killed process is
// taken over at once, because the process id is checked together with the process's start time.

import { open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { startOf } from "../processes.ts";
import { coordinatorErrors } from "./errors.ts";

/** Gives the run folder back. */
export type Release = () => Promise<void>;

/** Takes the run folder; throws `RUN_FOLDER_IN_USE` naming the process that owns it, else what the file system throws. */
export async function lockRunFolder(folder: string): Promise<Release> {
  const path = join(folder, "lock");
  for (;;) {
    try {
      const file = await open(path, "wx", 0o600);
      await file.writeFile(JSON.stringify({ pid: process.pid, started: startOf(process.pid) }));
      await file.close();
      // One that cannot be removed names a process that will have ended.
      return () => rm(path, { force: true }).catch(() => {});
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw cause;
    }
    const owner = await readOwner(path);
    if (owner && startOf(owner.pid) === owner.started) {
      throw coordinatorErrors.error(
        "RUN_FOLDER_IN_USE",
        `process ${owner.pid} is running in ${folder}`,
        { hint: "Stop that process, or give another --run folder." },
      );
    }
    await rm(path, { force: true });
  }
}

interface Owner {
  readonly pid: number;
  readonly started: string;
}

async function readOwner(path: string): Promise<Owner | undefined> {
  try {
    const { pid, started } = JSON.parse(await readFile(path, "utf8")) as Partial<Owner>;
    return typeof pid === "number" && typeof started === "string" ? { pid, started } : undefined;
  } catch {
    // Torn by a crash while it was written: nobody who lives wrote it.
    return undefined;
  }
}
