// What a test asks of the preload watched-disk.ts, and the environment that gives it to a program.

/** What is to happen to a program's changes of a folder. */
export interface DiskPlan {
  readonly folder: string;
  /** SIGKILL right after that many changes. */
  readonly killAfter?: number;
  /** From that change on what takes room is refused with a code, ENOSPC unless told, as long as the file `until` exists. */
  readonly refuse?: { readonly from: number; readonly until?: string; readonly code?: string };
  /** Gets one JSON line for each change. */
  readonly log?: string;
}

/** The environment variable that holds the plan. */
export const planVariable = "TRIFOLD_TEST_DISK";

/** The environment of a program whose disk is watched. */
export function watchedDisk(plan: DiskPlan): Record<string, string> {
  const preload = new URL("./watched-disk.js", import.meta.url).href;
  const others = process.env["NODE_OPTIONS"] ?? "";
  return {
    [planVariable]: JSON.stringify(plan),
    NODE_OPTIONS: `${others} --import=${preload}`.trim(),
  };
}
