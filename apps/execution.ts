// `--memory` and `--mode`: how a command executes its model.
import { formatQuantity } from "../devices/index.ts";
import {
  type ExecutionMode,
  estimateModes,
  type ModelSpec,
  planMemory,
  specInMode,
  type Workload,
} from "../runtime/index.ts";

/** What a person said of it; whole-float32 when nothing. */
export interface ExecutionChoice {
  /** Most resident memory of this process. */
  readonly memoryBytes?: number;
  /** Wins over the budget. */
  readonly mode?: ExecutionMode;
  /** What the process will keep beside the model, such as a cache; default 0. */
  readonly reservedBytes?: number;
}

/** A spec in the mode that was chosen. */
export interface ChosenExecution {
  readonly spec: ModelSpec;
  readonly mode: ExecutionMode;
}

/**
 * The spec in the mode that was named, or in the first whose estimate for these workloads fits the budget beside what
 * this process already takes; the estimates are logged. Throws `MEMORY_BUDGET_TOO_SMALL`.
 */
export async function chooseExecution(
  spec: ModelSpec,
  workloads: readonly Workload[],
  { memoryBytes, mode: named, reservedBytes = 0 }: ExecutionChoice,
  log: (message: string) => void,
): Promise<ChosenExecution> {
  if (memoryBytes === undefined) {
    const mode = named ?? "whole-float32";
    return { mode, spec: await specInMode(spec, mode) };
  }
  const idleBytes = process.memoryUsage.rss() + reservedBytes;
  const estimates = estimateModes(spec, workloads, idleBytes);
  const mode = named ?? planMemory(spec, workloads, { budgetBytes: memoryBytes, idleBytes }).mode;
  const list = estimates.map((estimate) => {
    return `${estimate.mode} ${formatQuantity(estimate.bytes, "bytes")}`;
  });
  log(`memory: ${mode} of ${list.join(", ")} (estimates of the whole process)`);
  return { mode, spec: await specInMode(spec, mode) };
}
