// The resident memory of this process, as Linux accounts it: now, and at its highest since a mark.
import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/**
 * Resident bytes of what is needed now. Garbage from before, freed while something is measured, would hide as
 * much of what that takes, so it is collected first; V8 hands the pages back a little later.
 */
export async function settledResidentBytes(): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect: unknown = runInNewContext("gc");
  for (let i = 0; i < 3 && typeof collect === "function"; i++) {
    collect();
    await setTimeout(100);
  }
  return residentBytes();
}

/** Highest resident bytes since the last mark; where Linux does not tell, since the process began. */
export function peakResidentBytes(): number {
  return statusBytes("VmHWM") ?? process.resourceUsage().maxRSS * 1024;
}

/** Starts a new peak measurement from what is resident now (proc(5), clear_refs, value 5). */
export function markPeak(): void {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // Not Linux, or not permitted: the peak then counts from the start of the process.
  }
}

/** Resident bytes now. */
export function residentBytes(): number {
  return statusBytes("VmRSS") ?? process.memoryUsage.rss();
}

function statusBytes(field: "VmRSS" | "VmHWM"): number | undefined {
  try {
    const status = readFileSync("/proc/self/status", "utf8");
    const kibibytes = new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1];
    return kibibytes === undefined ? undefined : Number(kibibytes) * 1024;
  } catch {
    return undefined;
  }
}
