// Where this package lies on disk: compiled files sit in dist/, sources beside package.json.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The package's own folder: the nearest one above this file that holds a package.json. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    const above = dirname(folder);
    if (above === folder) throw new Error("package.json of trifold is missing; install it again");
    folder = above;
  }
  return folder;
}

/** The version in package.json. */
export function packageVersion(): string {
  const json: unknown = JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8"));
  return typeof json === "object" && json !== null && "version" in json
    ? String(json.version)
    : "unknown";
}

/** Folder of the embedded model, the default of every `--model`. */
export function embeddedModelFolder(): string {
  return join(packageRoot(), "models", "sotu-gpt2");
}
