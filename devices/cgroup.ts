// Limits of the control groups above this process, version 1 and 2, from the process's own group up to the
// root of the mount: the strictest level counts. A path that is not mounted (containers) is skipped on the way up.
import { posix } from "node:path";
import type { Sysroot } from "./sysroot.ts";

/** What the memory controllers leave; both absent without a limit. */
export interface MemoryLimits {
  /** The lowest limit on the way up. */
  readonly limitBytes?: number;
  /** The least of limit minus use on the way up; page cache that can be dropped counts as unused. */
  readonly headroomBytes?: number;
}

/** Memory limits above the process: `memory.max` and `memory.high`, or version 1's `memory.limit_in_bytes`. */
export async function readMemoryLimits(sysroot: Sysroot): Promise<MemoryLimits> {
  let limitBytes = Number.POSITIVE_INFINITY;
  let headroomBytes = Number.POSITIVE_INFINITY;
  for (const { folder, version } of await levelsOf(sysroot, "memory")) {
    const { limits, usage, idleCache } = memoryFiles[version];
    const found = await Promise.all(limits.map((file) => sysroot.number(`${folder}/${file}`)));
    const limit = Math.min(...found.map((bytes) => bytes ?? unlimited));
    if (limit >= unlimited) continue;
    const used = (await sysroot.number(`${folder}/${usage}`)) ?? 0;
    const cache = statistic(await sysroot.text(`${folder}/memory.stat`), idleCache);
    limitBytes = Math.min(limitBytes, limit);
    headroomBytes = Math.min(headroomBytes, Math.max(0, limit - Math.max(0, used - cache)));
  }
  return Number.isFinite(limitBytes) ? { limitBytes, headroomBytes } : {};
}

/** Processors' worth of time the quotas above the process allow (0.25 is a quarter of one), or undefined without a quota. */
export async function readCpuQuota(sysroot: Sysroot): Promise<number | undefined> {
  let cores = Number.POSITIVE_INFINITY;
  for (const { folder, version } of await levelsOf(sysroot, "cpu")) {
    cores = Math.min(cores, await quotaAt(sysroot, folder, version));
  }
  return Number.isFinite(cores) ? cores : undefined;
}

/** One control group on the way up. */
interface Level {
  readonly folder: string;
  readonly version: 1 | 2;
}

// Version 1 writes "no limit" as the largest multiple of a page below 2^63; version 2 as "max", which is no number.
const unlimited = 2 ** 60;

const memoryFiles = {
  1: {
    limits: ["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    idleCache: "total_inactive_file",
  },
  2: {
    limits: ["memory.max", "memory.high"],
    usage: "memory.current",
    idleCache: "inactive_file",
  },
} as const;

/** The groups of a controller above this process, from `/proc/self/cgroup` (cgroups(7): `id:controllers:path`). */
async function levelsOf(sysroot: Sysroot, controller: "memory" | "cpu"): Promise<readonly Level[]> {
  const lines = ((await sysroot.text("/proc/self/cgroup")) ?? "").split("\n");
  const levels: Level[] = [];
  for (const line of lines) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    if (controllers === "") levels.push(...unifiedLevels(path));
    if (!controllers.split(",").includes(controller)) continue;
    for (const mount of new Set([controllers, controller])) {
      levels.push(...upwards(`/sys/fs/cgroup/${mount}`, path, 1));
    }
  }
  return levels;
}

function unifiedLevels(path: string): readonly Level[] {
  return ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].flatMap((mount) => upwards(mount, path, 2));
}

function upwards(mount: string, path: string, version: 1 | 2): Level[] {
  // A group outside this namespace shows as "/../name"; normalising keeps the way up inside the mount.
  const steps = posix.normalize(`/${path}`).split("/").filter(Boolean);
  const ends = Array.from({ length: steps.length + 1 }, (_, i) => steps.length - i);
  return ends.map((end) => ({ folder: [mount, ...steps.slice(0, end)].join("/"), version }));
}

async function quotaAt(sysroot: Sysroot, folder: string, version: 1 | 2): Promise<number> {
  const [quota, period] =
    version === 2
      ? ((await sysroot.text(`${folder}/cpu.max`)) ?? "").split(/\s+/).map(Number)
      : [
          await sysroot.number(`${folder}/cpu.cfs_quota_us`),
          await sysroot.number(`${folder}/cpu.cfs_period_us`),
        ];
  // -1 (version 1) and "max" (version 2) mean no quota.
  const limited = quota !== undefined && period !== undefined && quota > 0 && period > 0;
  return limited ? quota / period : Number.POSITIVE_INFINITY;
}

function statistic(text: string | undefined, name: string): number {
  const match = new RegExp(`^${name} (\\d+)$`, "m").exec(text ?? "");
  return Number(match?.[1] ?? 0);
}
