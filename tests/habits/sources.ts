// The project's own code as a test reads it.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A file of TypeScript. */
export interface Source {
  readonly file: string;
  readonly text: string;
}

/** Every TypeScript file of these folders. */
export function sourcesIn(folders: readonly string[]): Source[] {
  return folders.flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => join(folder, name))
      .map((file) => ({ file, text: readFileSync(file, "utf8") })),
  );
}
