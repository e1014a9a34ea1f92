// metrics.jsonl: what devices and rounds took, one JSON line each, for whoever draws or watches a run. Each line is written
// before the journal says that its round is closed or scored, and cut off again if a crash came between: none is lost or doubled.
import { existsSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { syncFolder, writeFileAtomic } from "../../runtime/index.ts";
import type { JournalRecord } from "./journal.ts";

/** A line: a lane that ended with a round, a distillation, or a round with its score. */
export interface MetricsLine extends Readonly<Record<string, unknown>> {
  readonly kind: "device" | "refinement" | "round";
  readonly round: number;
}

/** The metrics of a run. */
export interface Metrics {
  /** Resolves once the lines are on the disk. */
  append(lines: readonly MetricsLine[]): Promise<void>;
}

/** Opens the file, without what the journal does not know of: a torn line, rounds that it does not call closed or scored. */
export async function openMetrics(
  path: string,
  records: readonly JournalRecord[],
): Promise<Metrics> {
  const known = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
  const lastOf = (kind: "closed" | "scored") => {
    const last = records.findLast((record) => record.kind === kind);
    return last && "round" in last ? last.round : 0;
  };
  const [closed, scored] = [lastOf("closed"), lastOf("scored")];
  const kept = known
    .split(/(?<=\n)/)
    .filter((line) => isKnown(line, { closed, scored }))
    .join("");
  if (kept !== known) await writeFileAtomic(path, kept);
  return { append: (lines) => appendSynced(path, lines.map(textOf).join("")) };
}

/** Metrics are no reason for a new run to have an empty file, so the first lines make it. */
async function appendSynced(path: string, text: string): Promise<void> {
  const isNew = !existsSync(path);
  const file = await open(path, "a");
  try {
    await file.appendFile(text);
    await file.datasync();
  } finally {
    await file.close();
  }
  if (isNew) await syncFolder(dirname(path));
}

function isKnown(
  line: string,
  { closed, scored }: { readonly closed: number; readonly scored: number },
): boolean {
  if (!line.endsWith("\n")) return false;
  const { kind, round } = parsed(line) ?? {};
  return round !== undefined && round <= (kind === "round" ? scored : closed);
}

/** Undefined for what a power cut left of a line. */
function parsed(line: string): Partial<MetricsLine> | undefined {
  try {
    return JSON.parse(line) as MetricsLine;
  } catch {
    return undefined;
  }
}

function textOf(line: MetricsLine): string {
  return `${JSON.stringify(line)}\n`;
}
