// Kept rows on a disk: a file for each lane that left some, in a folder of the device's own that only this user may read.
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { EncodedTensor, KeptRows, RowKeeper } from "../protocols/index.ts";
import {
  makeFolder,
  readSafetensors,
  removeLeftovers,
  type StoredTensor,
  syncFolder,
  TrifoldError,
  writeStoredTensors,
} from "../runtime/index.ts";

/** Where rows are kept. */
export interface RowFilesOptions {
  /** Created when there is something to keep. */
  readonly folder: string;
  /** Does something in the folder: names in its own way what the disk refuses. */
  readonly within: <T>(act: () => Promise<T>) => Promise<T>;
  readonly log: (line: string) => void;
}

/** The rows of one device. A file that cannot be understood is as good as none, which costs bytes and nothing else; the log names it. */
export function rowFiles({ folder, within, log }: RowFilesOptions): RowKeeper {
  const file = (lane: number) => join(folder, `${lane}.safetensors`);
  return {
    read: (lane) =>
      within(async () => {
        const names = await namesIn(folder);
        if (!names.includes(`${lane}.safetensors`)) return undefined;
        try {
          return await readRows(file(lane));
        } catch (error) {
          if (!(error instanceof TrifoldError || error instanceof SyntaxError)) throw error;
          log(`begins without kept rows: ${error.message}`);
          return undefined;
        }
      }),
    write: ({ fields, tensors }, { lane, acceptedLane }) =>
      within(async () => {
        await makeFolder(folder, { mode: 0o700 });
        await removeLeftovers(folder);
        const stored = [...tensors].map(([name, row]) => [name, storedRow(row)] as const);
        const metadata = { fields: JSON.stringify(fields) };
        await writeStoredTensors(file(lane), new Map(stored), { metadata });
        for (const name of await readdir(folder)) {
          const former = Number.parseInt(name, 10);
          if (former < lane && former !== acceptedLane) await rm(join(folder, name));
        }
        await syncFolder(folder);
      }),
  };
}

async function namesIn(folder: string): Promise<readonly string[]> {
  return await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
}

async function readRows(path: string): Promise<KeptRows> {
  const opened = await readSafetensors(path);
  const tensors = new Map<string, EncodedTensor>();
  for (const name of opened.tensors.keys()) {
    const { dtype, shape, bytes } = await opened.readStored(name);
    tensors.set(name, { shape, bytes, encoding: dtype === "BF16" ? "bf16" : "float32" });
  }
  return { fields: JSON.parse(opened.metadata["fields"] ?? "{}"), tensors };
}

function storedRow({ shape, encoding, bytes }: EncodedTensor): StoredTensor {
  return { dtype: encoding === "bf16" ? "BF16" : "F32", shape, bytes };
}
