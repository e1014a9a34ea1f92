// The task file: YAML 1.2 that a person writes, checked with file, line and field.
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { contradictionOf, type TaskSettings, taskSchema } from "../../protocols/index.ts";
import { checkYaml, readYamlFile, type YamlFaults } from "../yaml-file.ts";
import { coordinatorErrors } from "./errors.ts";

const fileSchema = taskSchema.extend({
  /** Folder of the base model; the embedded one when left out. */
  model: z.string().min(1).optional(),
  data: z.strictObject({
    /** CSV the global model is scored on after each round. */
    test: z.string().min(1),
    /** CSV of texts every party may see; `kd` needs it. Labels are not read. */
    public: z.string().min(1).optional(),
    textColumn: z.string().min(1).default("text"),
    labelColumn: z.string().min(1).default("label"),
  }),
});

/** A task file with its paths made absolute (they are relative to the file). */
export interface TaskFile {
  readonly path: string;
  readonly settings: TaskSettings;
  readonly modelFolder: string | undefined;
  readonly data: {
    readonly test: string;
    readonly public: string | undefined;
    readonly textColumn: string;
    readonly labelColumn: string;
  };
}

/** Reads a task file; throws `TASK_FILE_MISSING` or `TASK_FILE_INVALID` (file:line: field: what is wrong). */
export async function readTaskFile(path: string): Promise<TaskFile> {
  const faults = taskFileFaults(path);
  const file = await readYamlFile(path, faults);
  const { model, data, ...settings } = checkYaml(file, fileSchema, faults);
  const contradiction = contradictionOf(settings, file.has);
  if (contradiction) {
    const { field, problem } = contradiction;
    throw faults.invalid(file.faultText(field.split("."), problem));
  }
  const absolute = (name: string) => resolve(dirname(path), name);
  return {
    path,
    settings,
    modelFolder: model === undefined ? undefined : absolute(model),
    data: { ...data, test: absolute(data.test), public: data.public && absolute(data.public) },
  };
}

/** How a file that holds a task is found wrong. */
export function taskFileFaults(path: string): YamlFaults {
  return {
    missing: (cause) =>
      coordinatorErrors.error("TASK_FILE_MISSING", `cannot read the task file ${path}`, {
        hint: "Give the path of a YAML file; examples/task.yaml is one to start from.",
        cause,
      }),
    invalid: (problem) =>
      coordinatorErrors.error("TASK_FILE_INVALID", problem, {
        hint: "docs/task.md lists every field with its range and default.",
      }),
  };
}
