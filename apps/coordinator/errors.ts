// Codes of the coordinator: tasks and run folders.
import { defineErrors } from "../../runtime/index.ts";

/** Codes of `apps/coordinator`. */
export const coordinatorErrors = defineErrors({
  BROKER_OPEN: "The broker lets anyone who connects command the devices.",
  TASK_FILE_MISSING: "The task file cannot be read.",
  TASK_FILE_INVALID: "The task file is not YAML, or a field is missing, unknown or out of range.",
  TASK_CHANGED: "The run folder belongs to a task with other settings, data or model.",
  LANE_WORKER_LOST: "The worker process that ran a split lane has ended.",
  PROVISION_UNKNOWN: "A device asked for bytes that are no part of the task's model.",
  RUN_FOLDER_IN_USE: "Another living process owns the run folder.",
  RUN_FOLDER_UNUSABLE: "The run folder cannot be created, read or written.",
  RUN_JOURNAL_DAMAGED: "The journal holds a line before its end that cannot be read.",
});
