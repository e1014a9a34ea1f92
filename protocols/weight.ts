// How much a device's contribution counts.
import { z } from "zod";
import { protocolErrors } from "./errors.ts";
import type { Task } from "./task.ts";

/** Fields every contribution carries. */
export const contributionFields = {
  /** Private examples it was trained on (n_i). */
  examples: z.int().positive().max(1e9),
  /** Optimizer steps made. */
  steps: z.int().positive(),
};

/** n_i, capped by the task, scaled by s / E for a device that stopped after s of E steps; throws `PROTOCOL_WEIGHT_INVALID`. */
export function contributionWeight(
  task: Task,
  { examples, steps }: { readonly examples: number; readonly steps: number },
  asked: number = task.training.localSteps,
): number {
  if (steps > asked) {
    throw protocolErrors.error(
      "PROTOCOL_WEIGHT_INVALID",
      `${steps} steps reported, the task asks for ${asked}`,
    );
  }
  return (Math.min(examples, task.cohort.maximumWeight) * steps) / asked;
}
