// The public set on a device: fetched once from the coordinator, checked against the task's hash, kept.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { inflateRawSync } from "node:zlib";
import { z } from "zod";
import { labelsOf, type Task } from "../../protocols/index.ts";
import { type Example, type Tokenizer, writeFileAtomic } from "../../runtime/index.ts";
import { examplesOf } from "../examples.ts";
import { deviceProgramErrors } from "./errors.ts";

/** Public texts are at most this much more than they travel as: deflate cannot do better on text. */
const largestExpansion = 64;
const texts = z.array(z.string().min(1));

/** How a device gets the public set. */
export interface PublicSetOptions {
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  /** Keeps `public/<sha256>`. */
  readonly stateFolder: string;
  /** Asks the coordinator for the bytes. */
  readonly fetch: () => Promise<Uint8Array>;
}

/** The public texts as examples without labels; throws `DEVICE_PUBLIC_SET_INVALID` when the bytes are not the announced ones. */
export async function loadPublicSet(options: PublicSetOptions): Promise<readonly Example[]> {
  const { task, tokenizer, stateFolder, fetch } = options;
  const { publicSet } = task.manifest;
  if (!publicSet) return [];
  const file = join(stateFolder, "public", publicSet.sha256);
  const kept = existsSync(file) ? await readFile(file) : undefined;
  const isKept = kept !== undefined && sha256(kept) === publicSet.sha256;
  const bytes = isKept ? kept : await fetch();
  if (sha256(bytes) !== publicSet.sha256) throw invalid(`sha256 ${sha256(bytes).slice(0, 12)}`);
  if (!isKept) {
    await mkdir(join(stateFolder, "public"), { recursive: true });
    await writeFileAtomic(file, bytes);
  }
  const rows = unpack(bytes).map((text) => ({ text, label: undefined }));
  if (rows.length !== publicSet.size) throw invalid(`${rows.length} texts`);
  const labels = labelsOf(task);
  return examplesOf(rows, { tokenizer, labels, sequence: task.training.sequenceLength });
}

function unpack(bytes: Uint8Array): readonly string[] {
  try {
    const inflated = inflateRawSync(bytes, {
      maxOutputLength: largestExpansion * bytes.length + 1024,
    });
    return texts.parse(JSON.parse(inflated.toString("utf8")));
  } catch (cause) {
    throw deviceProgramErrors.error(
      "DEVICE_PUBLIC_SET_INVALID",
      "the public set is not a list of texts",
      { cause },
    );
  }
}

function invalid(actual: string): Error {
  return deviceProgramErrors.error(
    "DEVICE_PUBLIC_SET_INVALID",
    `the public set that came has ${actual}, not what the task announces`,
  );
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
