// How often the device program was started on this machine: ties a late last will to the process it
// belongs to.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { makeFolder, writeFileAtomic } from "../../runtime/index.ts";
import { deviceProgramErrors } from "./errors.ts";

/** Counts this start; throws `DEVICE_STATE_UNUSABLE` when the state folder cannot be written. */
export async function nextStartCount(stateFolder: string, deviceId: string): Promise<number> {
  const file = join(stateFolder, `${deviceId}.starts`);
  try {
    await makeFolder(stateFolder, { mode: 0o700 });
    const known = Number(await readFile(file, "utf8").catch(() => "0"));
    // A damaged counter starts over: the instance id still tells processes apart.
    const count = (Number.isSafeInteger(known) && known > 0 ? known : 0) + 1;
    await writeFileAtomic(file, String(count));
    return count;
  } catch (cause) {
    throw deviceProgramErrors.error(
      "DEVICE_STATE_UNUSABLE",
      `cannot keep state in ${stateFolder}`,
      {
        hint: "Give a --state folder on a disk with room that this user may write to.",
        cause,
      },
    );
  }
}
