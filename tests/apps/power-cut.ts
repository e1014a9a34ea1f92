// What a power cut leaves of a folder, from the log of its changes (watched-disk.ts): bytes survive once their file was synced,
// names once their folder was. POSIX promises no more; variants show what a file system may have written besides.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";

/** A change of a folder as the preload logs it. */
export interface DiskChange {
  readonly op: "create" | "write" | "truncate" | "sync" | "rename" | "rm" | "mkdir" | "rmdir";
  readonly path: string;
  readonly at?: number | "end";
  /** Base64 of what was written. */
  readonly data?: string;
  readonly length?: number;
  /** Where a rename went. */
  readonly to?: unknown;
}

/** What survives: only what was synced; names too that were not; bytes too, the last write half; bytes too, as zeros. */
export const cuts = ["synced", "names", "torn", "zeros", "everything"] as const;

/** One of `cuts`. */
export type Cut = (typeof cuts)[number];

/** Whether a cut right after that change leaves something that no other one does. */
export function isTelling(cut: Cut, { op }: DiskChange): boolean {
  if (cut === "synced" || cut === "names") return op !== "write" && op !== "create";
  return cut === "everything" ? op !== "sync" : op === "write";
}

interface FileNode {
  readonly kind: "file";
  bytes: Buffer;
  synced: Buffer;
  /** Bytes of the last write since then. */
  unsynced: number;
}

interface FolderNode {
  readonly kind: "folder";
  readonly names: Map<string, Node>;
  synced: ReadonlyMap<string, Node>;
}

type Node = FileNode | FolderNode;

/** The changes that a program logged. */
export async function readChanges(log: string): Promise<readonly DiskChange[]> {
  const lines = (await readFile(log, "utf8")).trim().split("\n");
  return lines.map((line) => JSON.parse(line) as DiskChange);
}

/** A disk on which `root`, empty, is a folder that nothing takes away. */
export class VolatileDisk {
  readonly #root: string;
  readonly #top: FolderNode = emptyFolder();

  constructor(root: string) {
    this.#root = root;
  }

  apply(change: DiskChange): void {
    const { op, path } = change;
    const [folder, name] = this.#place(path);
    switch (op) {
      case "mkdir":
        // With `recursive` those above it may be new as well.
        this.#folder(path, { isNew: true });
        break;
      case "create":
        folder.names.set(name, emptyFile());
        break;
      case "rename": {
        const node = folder.names.get(name);
        const [target, newName] = this.#place(String(change.to));
        folder.names.delete(name);
        if (node) target.names.set(newName, node);
        break;
      }
      case "rm":
      case "rmdir":
        folder.names.delete(name);
        break;
      case "sync":
        sync(this.#node(path));
        break;
      default:
        amend(this.#node(path), change);
    }
  }

  /** Bytes of a file that are sure to survive, if its names do; undefined for none. */
  synced(path: string): Buffer | undefined {
    const node = this.#node(path);
    return node?.kind === "file" ? node.synced : undefined;
  }

  /** Builds the folder below `target` as a power cut now would leave it. */
  async leave(target: string, cut: Cut): Promise<void> {
    await build(this.#top, target, cut);
  }

  #place(path: string): [FolderNode, string] {
    const parts = relative(this.#root, path).split("/");
    const name = parts.pop() ?? "";
    return [this.#folder(join(this.#root, ...parts)), name];
  }

  /** Folders that no change made were there before. */
  #folder(path: string, { isNew = false } = {}): FolderNode {
    let folder = this.#top;
    for (const name of relative(this.#root, path)
      .split("/")
      .filter((part) => part !== "")) {
      const known = folder.names.get(name) ?? emptyFolder();
      if (known.kind !== "folder") throw new Error(`${path} is not a folder`);
      if (!isNew && !folder.names.has(name))
        folder.synced = new Map(folder.synced).set(name, known);
      folder.names.set(name, known);
      folder = known;
    }
    return folder;
  }

  #node(path: string): Node | undefined {
    if (relative(this.#root, path) === "") return this.#top;
    const [folder, name] = this.#place(path);
    return folder.names.get(name);
  }
}

function emptyFile(): FileNode {
  return { kind: "file", bytes: Buffer.alloc(0), synced: Buffer.alloc(0), unsynced: 0 };
}

function emptyFolder(): FolderNode {
  return { kind: "folder", names: new Map(), synced: new Map() };
}

function sync(node: Node | undefined): void {
  if (node?.kind === "folder") node.synced = new Map(node.names);
  if (node?.kind === "file") Object.assign(node, { synced: node.bytes, unsynced: 0 });
}

function amend(node: Node | undefined, { op, path, at, data = "", length = 0 }: DiskChange): void {
  if (node?.kind !== "file") throw new Error(`${op} of ${path}, which is no file`);
  if (op === "truncate") {
    node.bytes = node.bytes.subarray(0, length);
    node.unsynced = 0;
    return;
  }
  const bytes = Buffer.from(data, "base64");
  const from = typeof at === "number" ? at : node.bytes.length;
  const whole = Buffer.alloc(Math.max(node.bytes.length, from + bytes.length));
  node.bytes.copy(whole);
  bytes.copy(whole, from);
  Object.assign(node, { bytes: whole, unsynced: bytes.length });
}

async function build(folder: FolderNode, target: string, cut: Cut): Promise<void> {
  await mkdir(target, { recursive: true });
  for (const [name, node] of cut === "synced" ? folder.synced : folder.names) {
    const path = join(target, name);
    if (node.kind === "folder") await build(node, path, cut);
    else {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, bytesAfter(node, cut));
    }
  }
}

function bytesAfter({ bytes, synced, unsynced }: FileNode, cut: Cut): Buffer {
  switch (cut) {
    case "synced":
    case "names":
      return synced;
    case "torn":
      return bytes.subarray(0, bytes.length - (unsynced >> 1));
    case "zeros":
      // All but the last byte: of two blocks the second one may have been written first.
      return Buffer.from(bytes).fill(0, bytes.length - unsynced, Math.max(bytes.length - 1, 0));
    case "everything":
      return bytes;
  }
}
