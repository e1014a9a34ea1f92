// The project's pages as a test reads them: code blocks, tables, links.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A page. */
export interface Document {
  readonly file: string;
  readonly text: string;
}

/** Folders that others fill. */
const foreign: readonly string[] = ["node_modules", "dist", "runs"];

/** Every Markdown file that belongs to the project. */
export function documents(): Document[] {
  const top = readdirSync(".", { withFileTypes: true }).filter(
    ({ name }) => !name.startsWith(".") && !foreign.includes(name),
  );
  const files = top.flatMap((entry) =>
    entry.isDirectory()
      ? readdirSync(entry.name, { recursive: true, encoding: "utf8" }).map((name) =>
          join(entry.name, name),
        )
      : [entry.name],
  );
  return files
    .filter((file) => file.endsWith(".md"))
    .map((file) => ({ file, text: readFileSync(file, "utf8") }));
}

/** A call of the program in a document. */
export interface ProgramCall {
  readonly file: string;
  readonly command: string;
  readonly flags: readonly string[];
}

/** The lines of a page's code blocks that call the program, and calls within its text. */
export function programCalls({ file, text }: Document): ProgramCall[] {
  const whole = text.replace(/\\\n\s*/g, "");
  const lines = whole.matchAll(/(?:^|`)(?:npx )?trifold ([a-z]+)([^`#\n]*)/gm);
  return [...lines].map(([, command = "", rest = ""]) => {
    const flags = [...rest.matchAll(/--[a-z-]+/g)].map(([flag]) => flag);
    return { file, command, flags };
  });
}

/** A link to a file of the project. */
export interface Link {
  readonly file: string;
  readonly target: string;
}

/** Links and pictures of a page that are no web addresses; parts of pages left off. */
export function links({ file, text }: Document): Link[] {
  const targets = [...text.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)].map(([, target = ""]) => target);
  return targets
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => ({ file, target: decodeURI(target) }));
}

/** Cells of a page's table rows by the name in the first cell, which is code. */
export function tableRows(text: string): Map<string, readonly string[]> {
  const rows = text.matchAll(/^\| `([^`]+)`.*\|$/gm);
  return new Map(
    [...rows].map(([row, name = ""]) => [
      name,
      row
        .slice(1, -1)
        .split("|")
        .map((cell) => cell.trim()),
    ]),
  );
}
