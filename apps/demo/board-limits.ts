// Makes this machine's processes as slow and as small as a board, through Linux control groups (v1 or v2)
// where this user may write them. What cannot be enforced is said, not pretended.
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isAlive } from "../processes.ts";

/** What a board may take of this machine. */
export interface BoardLimit {
  readonly id: string;
  /** Share of one of this machine's cores; 1.5 is a core and a half. */
  readonly cores: number;
  readonly memoryBytes: number;
}

/** Limits in force. */
export interface LimitedGroup {
  /** What is enforced, for people: "cpu and memory", "cpu", or "nothing". */
  readonly enforced: string;
  /** Puts a process under its board's limits. */
  admit(id: string, pid: number): Promise<void>;
  /** Removes the groups; their processes must have ended. */
  close(): Promise<void>;
}

/** Creates a group for each board; enforces nothing where control groups cannot be written. */
export async function limitBoards(
  limits: readonly BoardLimit[],
  root = "/sys/fs/cgroup",
): Promise<LimitedGroup> {
  const name = `trifold-${process.pid}-${randomBytes(4).toString("hex")}`;
  for (const folder of ["", "cpu", "memory"]) await removeOrphans(join(root, folder));
  const trees = await writableTrees(root, name);
  const folders: string[] = [];
  const enforced = new Set<string>();
  for (const { parent, controllers } of trees) {
    folders.push(parent);
    for (const limit of limits) {
      const folder = join(parent, limit.id);
      await mkdir(folder);
      folders.push(folder);
      for (const controller of controllers) {
        if (await tryWrite(folder, settings[controller](limit))) enforced.add(kindOf(controller));
      }
    }
  }
  return {
    enforced: [...enforced].sort().join(" and ") || "nothing",
    admit: async (id, pid) => {
      for (const { parent } of trees)
        await writeFile(join(parent, id, "cgroup.procs"), String(pid));
    },
    close: async () => {
      for (const folder of folders.toReversed()) await rmdir(folder).catch(() => {});
    },
  };
}

/** Removes the empty groups of processes that were killed before they could. */
async function removeOrphans(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    const owner = /^trifold-(\d+)-[0-9a-f]+$/.exec(name)?.[1];
    if (owner === undefined || isAlive(Number(owner))) continue;
    const group = join(folder, name);
    // Files of a control group cannot be removed and need not be.
    for (const board of await readdir(group)) await rmdir(join(group, board)).catch(() => {});
    await rmdir(group).catch(() => {});
  }
}

type Controller = "cpu-v1" | "memory-v1" | "cpu-v2" | "memory-v2";

interface Tree {
  readonly parent: string;
  readonly controllers: readonly Controller[];
}

/** Files and values that enforce a limit. */
const settings: Readonly<
  Record<Controller, (limit: BoardLimit) => readonly (readonly [string, string])[]>
> = {
  "cpu-v1": ({ cores }) => [
    ["cpu.cfs_period_us", String(period)],
    ["cpu.cfs_quota_us", String(quota(cores))],
  ],
  "memory-v1": ({ memoryBytes }) => [["memory.limit_in_bytes", String(memoryBytes)]],
  "cpu-v2": ({ cores }) => [["cpu.max", `${quota(cores)} ${period}`]],
  "memory-v2": ({ memoryBytes }) => [["memory.max", String(memoryBytes)]],
};

const period = 100_000;

/** The kernel takes no quota below a millisecond. */
function quota(cores: number): number {
  return Math.max(1000, Math.round(cores * period));
}

function kindOf(controller: Controller): string {
  return controller.split("-")[0] as string;
}

/** The hierarchies in which this process may make groups. */
async function writableTrees(root: string, name: string): Promise<Tree[]> {
  const versionOne = [
    { parent: join(root, "cpu", name), controllers: ["cpu-v1"] as const },
    { parent: join(root, "memory", name), controllers: ["memory-v1"] as const },
  ];
  const isVersionTwo = existsSync(join(root, "cgroup.controllers"));
  const wanted = isVersionTwo
    ? [{ parent: join(root, name), controllers: ["cpu-v2", "memory-v2"] as const }]
    : versionOne;
  const trees: Tree[] = [];
  for (const tree of wanted) {
    try {
      await mkdir(tree.parent);
      // A v2 group hands controllers down only when told to; without them the limits below fail one by one.
      if (isVersionTwo)
        await writeFile(join(tree.parent, "cgroup.subtree_control"), "+cpu +memory").catch(
          () => {},
        );
      trees.push(tree);
    } catch {
      // Not root, no such hierarchy, or read-only: this limit is not enforced.
    }
  }
  return trees;
}

/** Writes a limit and reads it back: some kernels accept what they do not do. */
async function tryWrite(
  folder: string,
  files: readonly (readonly [string, string])[],
): Promise<boolean> {
  try {
    for (const [file, value] of files) await writeFile(join(folder, file), value);
    const [last, value] = files.at(-1) as readonly [string, string];
    const read = (await readFile(join(folder, last), "utf8")).trim();
    // Memory limits are rounded down to whole pages, of 64 KiB at most; -1 is none.
    const lessBytes = Number(value) - Number(read);
    return read === value || (last.startsWith("memory.") && lessBytes >= 0 && lessBytes < 65_536);
  } catch {
    return false;
  }
}
