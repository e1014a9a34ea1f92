// The task file: YAML 1.2 that a person writes, checked with file, line and field.
import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { type Document, isNode, LineCounter, parseDocument } from "yaml";
import { z } from "zod";
import { contradictionOf, type TaskSettings, taskSchema } from "../../protocols/index.ts";
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
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw coordinatorErrors.error("TASK_FILE_MISSING", `cannot read the task file ${path}`, {
      hint: "Give the path of a YAML file; examples/task.yaml is one to start from.",
      cause,
    });
  });
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const [fault] = document.errors;
  if (fault) {
    const line = lines.linePos(fault.pos[0]).line;
    throw coordinatorErrors.error(
      "TASK_FILE_INVALID",
      `${path}:${line}: ${fault.message.split("\n")[0]}`,
    );
  }
  const parsed = fileSchema.safeParse(document.toJS());
  if (!parsed.success) throw invalidField(path, document, lines, parsed.error);
  const { model, data, ...settings } = parsed.data;
  const contradiction = contradictionOf(settings, (field) => document.hasIn(field.split(".")));
  if (contradiction) {
    const { field, problem } = contradiction;
    const line = lineOf(document, lines, field.split("."));
    throw invalidTask(`${path}:${line}: ${field}: ${problem}`);
  }
  const absolute = (file: string) => resolve(dirname(path), file);
  return {
    path,
    settings,
    modelFolder: model === undefined ? undefined : absolute(model),
    data: { ...data, test: absolute(data.test), public: data.public && absolute(data.public) },
  };
}

function invalidField(
  path: string,
  document: Document,
  lines: LineCounter,
  error: z.ZodError,
): Error {
  const issue = error.issues[0];
  const field = issue?.path.map(String) ?? [];
  const where = issue?.code === "unrecognized_keys" ? [...field, ...issue.keys.slice(0, 1)] : field;
  const name = where.join(".") || "task";
  const line = lineOf(document, lines, where);
  return invalidTask(`${path}:${line}: ${name}: ${issue?.message}`);
}

function invalidTask(problem: string): Error {
  return coordinatorErrors.error("TASK_FILE_INVALID", problem, {
    hint: "docs/task.md lists every field with its range and default.",
  });
}

/** Line of the deepest part of a field's path that the file has. */
function lineOf(document: Document, lines: LineCounter, path: readonly string[]): number {
  for (let depth = path.length; depth > 0; depth--) {
    const node = document.getIn(path.slice(0, depth), true);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}
