// Figures as reports write them, on pages and on terminals alike.
import { formatQuantity } from "../../devices/index.ts";

/** A fraction: "86.5 %". */
export function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(1)} %`;
}

/** Whole bytes: "27.1 kB". */
export function bytes(count: number): string {
  return formatQuantity(Math.round(count), "bytes");
}

/** Floating-point operations: "157.2 GFLOP". */
export function flops(count: number): string {
  return formatQuantity(count, "flops");
}

/** A number of things: "1 round", "4 rounds". */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
