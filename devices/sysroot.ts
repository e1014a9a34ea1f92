// The plain files of a board under a root that tests can replace. What cannot be read is absent, never an
// error: boards differ in what they have, and sysfs files may refuse a read at any time.
import { constants } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";

/** Reads files below a root folder; every path starts with "/". */
export interface Sysroot {
  /** "/" on a board. */
  readonly path: string;
  /** The file's text without NULs and blanks at its end; undefined when it cannot be read or is empty. */
  text(file: string): Promise<string | undefined>;
  /** The file's text as a finite number. */
  number(file: string): Promise<number | undefined>;
  /** Names in a folder, sorted; none when it cannot be read. */
  list(folder: string): Promise<readonly string[]>;
  /** Paths of the entries of `folder` whose name matches, sorted. */
  glob(folder: string, name: RegExp): Promise<readonly string[]>;
}

/** The files below `path`. */
export function openSysroot(path: string): Sysroot {
  const text = (file: string) => readStart(join(path, file)).catch(() => undefined);
  const list = async (folder: string) =>
    (await readdir(join(path, folder)).catch(() => [])).toSorted();
  return {
    path,
    text,
    list,
    number: async (file) => {
      const content = await text(file);
      const value = content === undefined ? Number.NaN : Number(content);
      return Number.isFinite(value) ? value : undefined;
    },
    glob: async (folder, name) =>
      (await list(folder)).filter((entry) => name.test(entry)).map((entry) => `${folder}/${entry}`),
  };
}

// /proc/cpuinfo of a large server has a few hundred kilobytes; nothing that we read is longer.
const maximumBytes = 1 << 20;

async function readStart(file: string): Promise<string | undefined> {
  // Without O_NONBLOCK a pipe in the place of a file would block for ever.
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const chunks: Buffer[] = [];
    let length = 0;
    while (length < maximumBytes) {
      const { bytesRead, buffer } = await handle.read(Buffer.alloc(65_536));
      if (bytesRead === 0) break;
      chunks.push(buffer.subarray(0, bytesRead));
      length += bytesRead;
    }
    const content = Buffer.concat(chunks).toString("utf8");
    return content.replace(/[\s\0]+$/, "") || undefined;
  } finally {
    await handle.close();
  }
}
