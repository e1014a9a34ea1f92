// Where the coordinator and its worker processes keep the rows of their devices: a folder for each in the run folder.
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { RowKeeper } from "../../protocols/index.ts";
import { rowFiles } from "../kept-rows.ts";
import type { FolderGuard } from "./folder-guard.ts";

/** The keepers of a run folder, by device. */
export function rowsIn(
  runFolder: string,
  { guarded: within }: FolderGuard,
  log: (line: string) => void,
): (deviceId: string) => RowKeeper {
  return (deviceId) =>
    rowFiles({
      folder: join(rowsOf(runFolder), deviceId),
      within,
      log: (line) => log(`${deviceId} ${line}`),
    });
}

/** Forgets all rows: no lane will come. */
export async function clearRows(runFolder: string): Promise<void> {
  await rm(rowsOf(runFolder), { recursive: true, force: true });
}

function rowsOf(runFolder: string): string {
  return join(runFolder, "rows");
}
