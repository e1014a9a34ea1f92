// Which files of a device's state must outlive a power cut.
import { dirname } from "node:path";
import type { DiskChange } from "./power-cut.ts";

/** The files of a device's state that must outlive a power cut: their names were synced, and nothing has touched them since. */
export class SureFiles {
  readonly #sure = new Map<string, Buffer>();
  /** Undefined for one that goes. */
  readonly #unsure = new Map<string, Buffer | undefined>();

  apply({ op, path, to }: DiskChange, bytesOf: (path: string) => Buffer | undefined): void {
    if (op === "rename" && isState(String(to))) {
      this.#unsure.set(String(to), bytesOf(String(to)));
      if (isState(path)) this.#unsure.set(path, undefined);
    }
    if (op === "rm" && isState(path)) this.#unsure.set(path, undefined);
    if (op !== "sync") return;
    for (const [file, bytes] of this.#unsure) {
      if (dirname(file) !== path) continue;
      this.#unsure.delete(file);
      if (bytes === undefined) this.#sure.delete(file);
      else this.#sure.set(file, bytes);
    }
  }

  files(): [string, Buffer][] {
    return [...this.#sure].filter(([file]) => !this.#unsure.has(file));
  }
}

function isState(path: string): boolean {
  return /(staged-\d+|committed)\.safetensors$/.test(path);
}
