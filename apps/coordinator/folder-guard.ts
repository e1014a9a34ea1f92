// What a disk refuses becomes one error with a code that stops the run: nothing is acknowledged that is not on the disk.
import { TrifoldError } from "../../runtime/index.ts";
import { coordinatorErrors } from "./errors.ts";

/** Watches what a process does in its run folder. */
export interface FolderGuard {
  /** Aborted with `RUN_FOLDER_UNUSABLE` once something failed: the run cannot go on. */
  readonly failed: AbortSignal;
  /** Does something in the folder; what the file system refuses is thrown as `RUN_FOLDER_UNUSABLE`. */
  guarded<T>(act: () => Promise<T>): Promise<T>;
}

/** A guard of the run folder at `path`. */
export function guardFolder(path: string): FolderGuard {
  const failing = new AbortController();
  return {
    failed: failing.signal,
    guarded: async (act) => {
      try {
        return await act();
      } catch (cause) {
        const error = cause instanceof TrifoldError ? cause : unusable(path, cause);
        failing.abort(error);
        throw error;
      }
    },
  };
}

/** `RUN_FOLDER_UNUSABLE` with what the file system said and what to do about it. */
function unusable(path: string, cause: unknown): TrifoldError {
  const { code = "unknown", syscall = "use" } = cause as NodeJS.ErrnoException;
  return coordinatorErrors.error(
    "RUN_FOLDER_UNUSABLE",
    `cannot use the run folder ${path}: ${code} (${syscall})`,
    { hint: hints[code] ?? "Look after that disk, then start the same command again.", cause },
  );
}

const room =
  "Make room on that disk, then start the same command again: it goes on where this one stopped.";
const rights = "Give a --run folder on a disk that this user may write to.";

const hints: Readonly<Record<string, string>> = {
  ENOSPC: room,
  EDQUOT: room,
  EFBIG: room,
  EROFS: rights,
  EACCES: rights,
  EPERM: rights,
};
