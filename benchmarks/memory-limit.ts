// The limit of memory that this process is under, as the kernel tells it (control groups, v1 or v2).
import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** The file with the limit of the group that /proc/self/cgroup names; undefined where none is named. */
export function limitFile(groups: string, root = "/sys/fs/cgroup"): string | undefined {
  const lines = groups.split("\n").map((line) => line.split(":"));
  const [, , one] =
    lines.find(([, controllers = ""]) => controllers.split(",").includes("memory")) ?? [];
  if (one !== undefined) return join(root, "memory", one, "memory.limit_in_bytes");
  const [, , two] = lines.find(([id, controllers]) => id === "0" && controllers === "") ?? [];
  return two === undefined ? undefined : join(root, two, "memory.max");
}

/** The limit in force on this process; undefined when there is none or the kernel does not tell. */
export async function memoryLimitBytes(): Promise<number | undefined> {
  try {
    const file = limitFile(await readFile("/proc/self/cgroup", "utf8"));
    const limit = file === undefined ? Number.NaN : Number(await readFile(file, "utf8"));
    return Number.isFinite(limit) ? limit : undefined;
  } catch {
    return undefined;
  }
}
