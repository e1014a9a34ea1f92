// Which parameters a method trains and averages.
import { factorOf } from "./factors.ts";
import type { AggregationOptions } from "./options.ts";

/**
 * Whether devices train a parameter of that name and send its update. ffa (FFA-LoRA: Sun et al. 2024, arXiv 2403.12313, section 3) leaves A at the
 * start that both ends make from the task's seed: then mean(B_i) A is the mean of the products, and A never travels.
 */
export function isTrained({ method }: Pick<AggregationOptions, "method">, name: string): boolean {
  return method !== "ffa" || factorOf(name)?.factor !== "A";
}
