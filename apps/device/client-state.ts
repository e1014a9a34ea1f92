// What a device keeps between rounds. Staged for a lane, committed when the coordinator says that the
// lane was accepted: a rename, so that a power cut leaves the one or the other.
import { existsSync } from "node:fs";
import { readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { ClientState, RowKeeper } from "../../protocols/index.ts";
import {
  makeFolder,
  readParameterFile,
  removeLeftovers,
  syncFolder,
  TrifoldError,
  writeSafetensors,
} from "../../runtime/index.ts";
import { rowFiles } from "../kept-rows.ts";
import { deviceProgramErrors } from "./errors.ts";

/** State of one device in one task. */
export interface DeviceState {
  /** What the protocol sees while `lane` runs. */
  forLane(lane: number): ClientState;
  readonly rows: RowKeeper;
  /** Commits what the accepted lane staged and forgets what others did. */
  settle(acceptedLane: number): Promise<void>;
}

/** State in `folder`, created when missing. What cannot be read or written throws `DEVICE_STATE_UNUSABLE`. */
export async function openDeviceState(
  folder: string,
  log: (line: string) => void,
): Promise<DeviceState> {
  await coded(folder, async () => {
    await makeFolder(folder, { mode: 0o700 });
    await removeLeftovers(folder);
  });
  const committed = join(folder, "committed.safetensors");
  const staged = (lane: number) => join(folder, `staged-${lane}.safetensors`);
  let last: Promise<void> = Promise.resolve();
  return {
    rows: rowFiles({ folder: join(folder, "rows"), within: (act) => coded(folder, act), log }),
    forLane: (lane) => ({
      read: () =>
        coded(folder, async () =>
          existsSync(committed) ? readParameterFile(committed) : undefined,
        ),
      stage: (tensors) => coded(folder, () => writeSafetensors(staged(lane), tensors)),
    }),
    settle: (acceptedLane) => {
      // The end of one round and the start of the next say the same at nearly the same time.
      last = last.catch(() => {}).then(() => coded(folder, () => settle(acceptedLane)));
      return last;
    },
  };

  async function settle(acceptedLane: number): Promise<void> {
    for (const name of await readdir(folder)) {
      const lane = Number(/^staged-(\d+)\.safetensors$/.exec(name)?.[1] ?? Number.NaN);
      if (lane === acceptedLane) await rename(staged(lane), committed);
      else if (lane < acceptedLane) await rm(staged(lane), { force: true });
    }
    await syncFolder(folder);
  }
}

/** What the disk says as an error with a code: it fails a round, and the next one may find room. */
async function coded<T>(folder: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (cause) {
    if (cause instanceof TrifoldError) throw cause;
    const { code = "unknown" } = cause as NodeJS.ErrnoException;
    throw deviceProgramErrors.error(
      "DEVICE_STATE_UNUSABLE",
      `cannot keep state in ${folder}: ${code}`,
      {
        hint: "Make room on that disk, or give a --state folder that this user may write to.",
        cause,
      },
    );
  }
}
