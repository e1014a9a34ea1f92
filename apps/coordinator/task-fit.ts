// Settings of a task that only the base model can judge.
import { type ModelConfig, targetedModules } from "../../runtime/index.ts";
import { coordinatorErrors } from "./errors.ts";
import type { TaskFile } from "./task-file.ts";

/** Throws `TASK_FILE_INVALID` naming the field when the task asks for what the model does not have. */
export function checkTaskFits(
  { path, settings }: Pick<TaskFile, "path" | "settings">,
  config: ModelConfig,
): void {
  const { training, split, adapter } = settings;
  if (training.sequenceLength > config.positions) {
    throw misfit(
      path,
      `training.sequenceLength: ${training.sequenceLength}`,
      `${config.positions} positions`,
    );
  }
  if (split.cutLayer !== "auto" && split.cutLayer >= config.layers) {
    throw misfit(
      path,
      `split.cutLayer: ${split.cutLayer}`,
      `${config.layers} blocks, one of which must stay behind the cut`,
    );
  }
  targetedModules(config, adapter);
}

function misfit(path: string, given: string, has: string): Error {
  return coordinatorErrors.error(
    "TASK_FILE_INVALID",
    `${path}: ${given} does not fit the model, which has ${has}`,
    {
      hint: "Give a smaller number, or another model.",
    },
  );
}
