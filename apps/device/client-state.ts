// What a device keeps between rounds. Staged for a lane, committed when the coordinator says that the
// lane was accepted: a rename, so that a power cut leaves the one or the other.
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { ClientState } from "../../protocols/index.ts";
import { readParameterFile, syncFolder, writeSafetensors } from "../../runtime/index.ts";

/** State of one device in one task. */
export interface DeviceState {
  /** What the protocol sees while `lane` runs. */
  forLane(lane: number): ClientState;
  /** Commits what the accepted lane staged and forgets what others did. */
  settle(acceptedLane: number): Promise<void>;
}

/** State in `folder`, created when missing. */
export async function openDeviceState(folder: string): Promise<DeviceState> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const committed = join(folder, "committed.safetensors");
  const staged = (lane: number) => join(folder, `staged-${lane}.safetensors`);
  let last: Promise<void> = Promise.resolve();
  return {
    forLane: (lane) => ({
      read: async () => (existsSync(committed) ? readParameterFile(committed) : undefined),
      stage: (tensors) => writeSafetensors(staged(lane), tensors),
    }),
    settle: (acceptedLane) => {
      // The end of one round and the start of the next say the same at nearly the same time.
      last = last.catch(() => {}).then(() => settle(acceptedLane));
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
