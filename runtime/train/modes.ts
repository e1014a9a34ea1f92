// The ways to execute a model, from the fastest to the smallest, and the choice among them by a memory budget.
import { runtimeErrors } from "../errors.ts";
import type { ModelSpec } from "../models/partition.ts";
import { canQuantise, quantiseModel, sketchQuantised } from "../models/quantise.ts";
import { trainingMemoryBytes, type Workload } from "./memory.ts";

/**
 * Modes in the order a budget tries them. `whole` is one graph with mapped weights, `blocks` computes block by block
 * with the weights of one block in memory; behind the dash is how the linear layers are stored. `whole-int4` rounds
 * most and is larger than blocks, so it is taken only when asked for.
 */
export const executionModes = [
  "whole-float32",
  "whole-int8",
  "blocks-float32",
  "blocks-int8",
  "whole-int4",
] as const;

/** Name of a mode. */
export type ExecutionMode = (typeof executionModes)[number];

/** What a budget led to. */
export interface MemoryPlan {
  readonly mode: ExecutionMode;
  /** Of every mode that the model can have, in order. */
  readonly estimates: readonly MemoryEstimate[];
}

/** What a mode is estimated to take. */
export interface MemoryEstimate {
  readonly mode: ExecutionMode;
  /** Peak resident bytes, those of the idle process included where they were given. */
  readonly bytes: number;
}

/** The spec in a mode; layers are quantised when this is their first time. */
export async function specInMode(spec: ModelSpec, mode: ExecutionMode): Promise<ModelSpec> {
  const { execution, format } = modes[mode];
  const model = format === "float32" ? spec.model : await quantiseModel(spec.model, format);
  return { ...spec, model, execution };
}

/** The spec in a mode for graphs that are measured, never run. */
export function sketchInMode(spec: ModelSpec, mode: ExecutionMode): ModelSpec {
  const { execution, format } = modes[mode];
  const model = format === "float32" ? spec.model : sketchQuantised(spec.model, format);
  return { ...spec, model, execution };
}

/** What a plan is held to. */
export interface MemoryBudget {
  /** Default: no limit. */
  readonly budgetBytes?: number;
  /** What the process takes already and the budget has to hold as well; default 0. */
  readonly idleBytes?: number;
}

/**
 * The first mode whose estimate for these workloads is within the budget, whole-float32 without one. Throws
 * `MEMORY_BUDGET_TOO_SMALL` with every estimate when nothing fits.
 */
export function planMemory(
  spec: ModelSpec,
  workloads: readonly Workload[],
  { budgetBytes = Number.POSITIVE_INFINITY, idleBytes = 0 }: MemoryBudget = {},
): MemoryPlan {
  const estimates = estimateModes(spec, workloads, idleBytes);
  const chosen = estimates.find(({ mode, bytes }) => modes[mode].isOffered && bytes <= budgetBytes);
  if (chosen) return { mode: chosen.mode, estimates };
  const list = estimates.map(({ mode, bytes }) => `${mode} ${megabytes(bytes)}`).join(", ");
  throw runtimeErrors.error(
    "MEMORY_BUDGET_TOO_SMALL",
    `no way to execute the model fits ${megabytes(budgetBytes)}: ${list}`,
    { hint: "Raise the budget, or take smaller batches or shorter sequences." },
  );
}

/** What each mode is estimated to take, beside what the process takes already; without modes that the model cannot have. */
export function estimateModes(
  spec: ModelSpec,
  workloads: readonly Workload[],
  idleBytes = 0,
): readonly MemoryEstimate[] {
  return executionModes.flatMap((mode) => {
    if (!canQuantise(spec.model, modes[mode].format)) return [];
    const sketch = sketchInMode(spec, mode);
    return [{ mode, bytes: idleBytes + trainingMemoryBytes(sketch, workloads) }];
  });
}

const modes: {
  readonly [M in ExecutionMode]: {
    readonly execution: "whole" | "blocks";
    readonly format: "float32" | "int8" | "int4";
    /** Whether a budget may lead to it. */
    readonly isOffered: boolean;
  };
} = {
  "whole-float32": { execution: "whole", format: "float32", isOffered: true },
  "whole-int8": { execution: "whole", format: "int8", isOffered: true },
  "blocks-float32": { execution: "blocks", format: "float32", isOffered: true },
  "blocks-int8": { execution: "blocks", format: "int8", isOffered: true },
  "whole-int4": { execution: "whole", format: "int4", isOffered: false },
};

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
