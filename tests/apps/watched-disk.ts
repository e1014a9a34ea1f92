// Preloaded into a program under test (`node --import`): numbers its changes of one folder, logs them, and ends the program
// or fills the disk at a chosen one. Only calls of node:fs/promises count, which is all that the program's state goes through.
import { appendFileSync, existsSync } from "node:fs";
import promises, { type FileHandle } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { resolve } from "node:path";
import { isMainThread } from "node:worker_threads";
import { type DiskPlan, planVariable } from "./disk-plan.ts";

const real = { ...promises };
interface Change {
  readonly op: string;
  readonly path: string;
  readonly [detail: string]: unknown;
}

/** Counts and logs changes, and does to them what the plan says. */
class Watch {
  readonly #plan: DiskPlan;
  #count = 0;

  constructor(plan: DiskPlan) {
    this.#plan = plan;
  }

  isInside(path: unknown): path is string {
    const inside = `${resolve(this.#plan.folder)}/`;
    return typeof path === "string" && `${resolve(path)}/`.startsWith(inside);
  }

  /** A change was made. */
  done(change: Change): void {
    const { killAfter, log } = this.#plan;
    this.#count += 1;
    if (log !== undefined) appendFileSync(log, `${JSON.stringify(change)}\n`);
    if (killAfter === this.#count) process.kill(process.pid, "SIGKILL");
  }

  /** Whether the disk refuses the next change that takes room. */
  get refuses(): boolean {
    const { refuse } = this.#plan;
    if (refuse === undefined || this.#count + 1 < refuse.from) return false;
    return refuse.until === undefined || existsSync(refuse.until);
  }

  refusal(path: string): Error {
    const code = this.#plan.refuse?.code ?? "ENOSPC";
    return Object.assign(new Error(`${code}: refused, write '${path}'`), {
      code,
      syscall: "write",
    });
  }
}

/** A file that is written to; positions are those of the bytes, as pwrite(2) takes them. */
class WatchedFile {
  readonly #watch: Watch;
  readonly #path: string;
  readonly #isAppending: boolean;
  readonly #write: FileHandle["write"];
  #offset = 0;

  constructor(watch: Watch, handle: FileHandle, path: string, isAppending: boolean) {
    this.#watch = watch;
    this.#path = path;
    this.#isAppending = isAppending;
    this.#write = handle.write.bind(handle);
  }

  /** A disk that runs full takes the first bytes still. */
  async put(bytes: Buffer, position?: number): Promise<void> {
    const { refuses } = this.#watch;
    const taken = refuses ? bytes.subarray(0, bytes.length >> 1) : bytes;
    const at = position ?? (this.#isAppending ? undefined : this.#offset);
    for (let from = 0; from < taken.length; ) {
      const place = at === undefined ? null : at + from;
      from += (await this.#write(taken, from, taken.length - from, place)).bytesWritten;
    }
    if (position === undefined) this.#offset += taken.length;
    const change = { path: this.#path, at: at ?? "end", data: taken.toString("base64") };
    this.#watch.done({ op: "write", ...change });
    if (refuses) throw this.#watch.refusal(this.#path);
  }
}

function watchedHandle(watch: Watch, handle: FileHandle, path: string, flags: string): FileHandle {
  const file = new WatchedFile(watch, handle, path, flags.startsWith("a"));
  const whole = (data: unknown): Promise<void> => file.put(bytesOf(data));
  const then = (op: string, act: () => Promise<void>) => async () => {
    await act();
    watch.done({ op, path });
  };
  const truncate = handle.truncate.bind(handle);
  return Object.assign(handle, {
    write: async (data: string | Uint8Array, from = 0, length?: unknown, position?: unknown) => {
      const bytes = bytesOf(data);
      if (typeof data === "string") await file.put(bytes, from || undefined);
      else {
        const end = typeof length === "number" ? from + length : bytes.length;
        const at = typeof position === "number" ? position : undefined;
        await file.put(bytes.subarray(from, end), at);
      }
      return { bytesWritten: bytes.length, buffer: data };
    },
    writeFile: whole,
    appendFile: whole,
    truncate: async (length = 0) => {
      await truncate(length);
      watch.done({ op: "truncate", path, length });
    },
    sync: then("sync", handle.sync.bind(handle)),
    datasync: then("sync", handle.datasync.bind(handle)),
  });
}

function watchDisk(plan: DiskPlan): void {
  const watch = new Watch(plan);
  const open = async (path: string, flags: string | number = "r", mode?: number) => {
    if (!watch.isInside(path) || typeof flags === "number") return real.open(path, flags, mode);
    const isWriting = /[wa+]/.test(flags);
    const isNew = isWriting && !existsSync(path);
    if (isNew && watch.refuses) throw watch.refusal(path);
    const handle = await real.open(path, flags, mode);
    if (isNew) watch.done({ op: "create", path });
    else if (flags.startsWith("w")) watch.done({ op: "truncate", path, length: 0 });
    return watchedHandle(watch, handle, path, flags);
  };
  const writing = (flags: "w" | "a") => async (path: string, data: unknown, options?: never) => {
    const plain = flags === "a" ? real.appendFile : real.writeFile;
    if (!watch.isInside(path)) return plain(path, data as string, options);
    const handle = await open(path, flags);
    await handle.writeFile(bytesOf(data)).finally(() => handle.close());
  };
  const naming = (name: "rename" | "rm" | "unlink" | "mkdir" | "rmdir") => {
    return (path: unknown, ...rest: unknown[]) => rename(watch, name, [path, ...rest]);
  };
  const names = ["rename", "rm", "unlink", "mkdir", "rmdir"] as const;
  const renaming = Object.fromEntries(names.map((name) => [name, naming(name)]));
  Object.assign(promises, { open, writeFile: writing("w"), appendFile: writing("a"), ...renaming });
  syncBuiltinESMExports();
}

/** A call that changes names; one that changed nothing does not count. */
async function rename(
  watch: Watch,
  name: "rename" | "rm" | "unlink" | "mkdir" | "rmdir",
  [path, ...rest]: unknown[],
): Promise<unknown> {
  const call = real[name] as (...all: unknown[]) => Promise<unknown>;
  if (!watch.isInside(path)) return call(path, ...rest);
  const isMaking = name === "mkdir";
  const isChange = existsSync(path) !== isMaking;
  if (isMaking && isChange && watch.refuses) throw watch.refusal(path);
  const result = await call(path, ...rest);
  if (isChange) watch.done({ op: name === "unlink" ? "rm" : name, path, to: rest[0] });
  return result;
}

function bytesOf(data: unknown): Buffer {
  if (typeof data === "string") return Buffer.from(data);
  const view = data as Uint8Array;
  return Buffer.from(view.buffer, view.byteOffset, view.byteLength);
}

const text = process.env[planVariable];
if (text !== undefined && isMainThread) watchDisk(JSON.parse(text) as DiskPlan);
