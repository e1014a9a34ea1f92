// Files that a crash leaves either as they were or as they should be: written beside, synced, renamed.
import { randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";

/** Replaces the file at `path` as a whole: after a crash it holds the old or the new content, never a part. */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array,
  mode = 0o666,
): Promise<void> {
  await replaceFile(path, (file) => file.writeFile(content), mode);
}

/** Like `writeFileAtomic`, with content that `write` streams into the handle; on failure nothing is left behind. */
export async function replaceFile(
  path: string,
  write: (file: FileHandle) => Promise<void>,
  mode = 0o666,
): Promise<void> {
  const beside = `${path}.${randomBytes(6).toString("hex")}.new`;
  try {
    await writeSynced(beside, write, mode);
    await rename(beside, path);
  } catch (cause) {
    await rm(beside, { force: true });
    throw cause;
  }
  await syncFolder(dirname(path));
}

/** Creates the file at `path`, lets `write` fill it and returns once it is on the disk. Not atomic by itself. */
export async function writeSynced(
  path: string,
  write: (file: FileHandle) => Promise<void>,
  mode = 0o666,
): Promise<void> {
  const file = await open(path, "w", mode);
  try {
    await write(file);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Creates the folder and those above it that are missing; a power cut does not take it away once this resolves. */
export async function makeFolder(
  path: string,
  { mode }: { readonly mode?: number } = {},
): Promise<void> {
  const whole = resolve(path);
  const first = await mkdir(whole, { recursive: true, ...(mode === undefined ? {} : { mode }) });
  // Its own name always: a crash may have come between an earlier call's two steps.
  const names = [whole];
  while (first !== undefined && names[0] !== first) names.unshift(dirname(names[0] as string));
  for (const name of names)
    await syncFolder(dirname(name)).catch((error: NodeJS.ErrnoException) => {
      // A folder that one may enter and not list was not made here.
      if (error.code !== "EACCES" && error.code !== "EPERM") throw error;
    });
}

/** Removes what a crash left of files that were being replaced in `folder`. */
export async function removeLeftovers(folder: string): Promise<void> {
  const names = await readdir(folder);
  for (const name of names.filter((one) => /\.[0-9a-f]{12}\.new$/.test(one)))
    await rm(join(folder, name), { force: true });
}

/** Makes the names in `folder` durable; without it a rename may be lost with the power. */
export async function syncFolder(folder: string): Promise<void> {
  // Windows cannot open a folder as a file; there NTFS journals the rename.
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
