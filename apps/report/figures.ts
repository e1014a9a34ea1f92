// Figures as reports write them, on pages and on terminals alike.
import { formatQuantity } from "../../devices/index.ts";
import type { Score } from "../../runtime/index.ts";

/** A fraction: "86.5 %". */
export function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(1)} %`;
}

/** A score with its name, as reports write it: accuracy "86.5 %", perplexity "41.3". */
export interface ScoreFigure {
  readonly name: "accuracy" | "perplexity";
  readonly value: number;
  readonly text: string;
}

/** A score, or what stands where there is none yet. */
export type MaybeScore = { readonly [K in keyof Score]?: number | undefined };

/** What a score is called and how it reads; undefined where there is none. */
export function scoreFigure({ accuracy, perplexity }: MaybeScore): ScoreFigure | undefined {
  if (accuracy !== undefined) return { name: "accuracy", value: accuracy, text: percent(accuracy) };
  if (perplexity === undefined) return undefined;
  return { name: "perplexity", value: perplexity, text: decimal(perplexity) };
}

/** Three significant digits: "41.3", "5.17", "1234". */
export function decimal(value: number): string {
  const whole = Math.max(1, Math.floor(Math.log10(Math.max(1, value))) + 1);
  return value.toFixed(Math.max(0, 3 - whole));
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
