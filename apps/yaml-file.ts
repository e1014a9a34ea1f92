// YAML 1.2 that a person writes, checked so that a fault is named with file, line and field.
import { readFile } from "node:fs/promises";
import { isNode, LineCounter, parseDocument } from "yaml";
import type { z } from "zod";

/** A file that is YAML. */
export interface YamlFile {
  readonly path: string;
  readonly value: unknown;
  /** Whether the file itself gives a field, by its path with dots. */
  has(field: string): boolean;
  /** "file:line: field: problem"; the line is that of the deepest part of the field that the file has. */
  faultText(field: readonly string[], problem: string): string;
}

/** How the faults of a kind of file are told. */
export interface YamlFaults {
  missing(cause: unknown): Error;
  invalid(problem: string): Error;
}

/** Reads a file; throws what `faults` make of it. */
export async function readYamlFile(path: string, faults: YamlFaults): Promise<YamlFile> {
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw faults.missing(cause);
  });
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const [fault] = document.errors;
  if (fault) {
    const { line } = lines.linePos(fault.pos[0]);
    throw faults.invalid(`${path}:${line}: ${fault.message.split("\n")[0]}`);
  }
  const lineOf = (field: readonly string[]): number => {
    for (let depth = field.length; depth > 0; depth--) {
      const node = document.getIn(field.slice(0, depth), true);
      if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
    }
    return 1;
  };
  return {
    path,
    value: document.toJS(),
    has: (field) => document.hasIn(field.split(".")),
    faultText: (field, problem) =>
      `${path}:${lineOf(field)}: ${field.join(".") || "file"}: ${problem}`,
  };
}

/** The file's value in the schema's type; throws the first field that does not fit. */
export function checkYaml<T>(file: YamlFile, schema: z.ZodType<T>, faults: YamlFaults): T {
  const parsed = schema.safeParse(file.value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue?.path.map(String) ?? [];
  const where = issue?.code === "unrecognized_keys" ? [...field, ...issue.keys.slice(0, 1)] : field;
  throw faults.invalid(file.faultText(where, issue?.message ?? "is not valid"));
}
