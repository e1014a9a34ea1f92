// metrics.jsonl: what devices and rounds took, one JSON line each, for whoever draws or watches a run. Each line is written
// before the journal says that its round is closed or scored, and cut off again if a crash came between: none is lost or doubled.
import { appendFile, readFile } from "node:fs/promises";
import { writeFileAtomic } from "../../runtime/index.ts";
import type { JournalRecord } from "./journal.ts";

/** A line: a lane that ended with a round, a distillation, or a round with its score. */
export interface MetricsLine extends Readonly<Record<string, unknown>> {
  readonly kind: "device" | "refinement" | "round";
  readonly round: number;
}

/** The metrics of a run. */
export interface Metrics {
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
  return { append: (lines) => appendFile(path, lines.map(textOf).join("")) };
}

function isKnown(
  line: string,
  { closed, scored }: { readonly closed: number; readonly scored: number },
): boolean {
  if (!line.endsWith("\n")) return false;
  const { kind, round } = JSON.parse(line) as MetricsLine;
  return round <= (kind === "round" ? scored : closed);
}

function textOf(line: MetricsLine): string {
  return `${JSON.stringify(line)}\n`;
}
