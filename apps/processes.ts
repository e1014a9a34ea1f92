// Whether another process lives. A process id alone does not say: ids are used again, and one that has ended keeps its own until its
// parent asks, which the first process of a container often never does.
import { readFileSync } from "node:fs";

/** What tells a living process from every other: the boot and the clock ticks since then on Linux, elsewhere only that it lives. Empty once it has ended. */
export function startOf(pid: number): string {
  if (process.platform !== "linux") return answers(pid) ? "alive" : "";
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces; fields 3 and 22 of the whole line are the state and the start time (proc(5)).
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const state = fields[0] ?? "";
    // A board starts its services alike after each boot, down to the process id.
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return endedStates.includes(state) ? "" : `${boot} ${fields[19]}`;
  } catch {
    return "";
  }
}

/** Whether the process has not ended. */
export function isAlive(pid: number): boolean {
  return startOf(pid) !== "";
}

/** Zombie and dead. */
const endedStates = ["Z", "X", "x"];

function answers(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // One that we may not signal is there.
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
