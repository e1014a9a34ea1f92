// What a coordinator must not forget, one JSON line each, on the disk before it acts on it. Large payloads
// lie in files of their own that a line names. A torn last line is what a crash leaves, and is dropped.
import { type FileHandle, open, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Assignment, BufferedUpdate, RoundCost } from "../../protocols/index.ts";
import { type Score, syncFolder } from "../../runtime/index.ts";
import type { DeviceRoundReport } from "../control-messages.ts";
import { coordinatorErrors } from "./errors.ts";

/** One line of the journal. */
export type JournalRecord =
  | {
      readonly kind: "round";
      readonly round: number;
      readonly attempt: number;
      /** The devices that are asked, where not everyone is. */
      readonly cohort?: readonly string[];
    }
  | {
      readonly kind: "lane";
      readonly round: number;
      readonly attempt: number;
      readonly lane: number;
      readonly deviceId: string;
      readonly assignment: Assignment;
      readonly resumable: boolean;
      /** What the device calls its board; no decision depends on it. */
      readonly board?: string;
      /** What selection expected a round to take. */
      readonly estimate?: RoundCost | undefined;
    }
  /** A message that a resumable lane received; `file` holds its envelope. */
  | {
      readonly kind: "upload";
      readonly deviceId: string;
      readonly lane: number;
      readonly sequence: number;
      readonly file: string;
    }
  /** The outcome of a lane that lives in memory; `file` holds the update. */
  | {
      readonly kind: "result";
      readonly deviceId: string;
      readonly lane: number;
      readonly sequence: number;
      readonly file: string;
      readonly weight: number;
    }
  | {
      readonly kind: "report";
      readonly deviceId: string;
      readonly lane: number;
      readonly report: DeviceRoundReport;
    }
  /** An asynchronous federation will fold that lane into that round, which it then does not ask for again. */
  | ({ readonly kind: "buffered" } & BufferedUpdate)
  /** An asynchronous federation will not: too many rounds were folded meanwhile. */
  | {
      readonly kind: "dropped";
      readonly deviceId: string;
      readonly lane: number;
      readonly staleness: number;
    }
  /** A device whose lane was opened in a round and not folded in: it was late, or gave up with this error. */
  | {
      readonly kind: "missed";
      readonly round: number;
      readonly deviceId: string;
      readonly lane: number;
      readonly failure?: string | undefined;
    }
  /** What a device does from this round on, and why no longer what it did. */
  | {
      readonly kind: "revised";
      readonly round: number;
      readonly deviceId: string;
      readonly assignment: Assignment;
      /** Label of what it did before. */
      readonly from: string;
      readonly because: string;
    }
  | ClosedRecord
  | ScoredRecord
  /** The adapter is saved and the devices know it. */
  | { readonly kind: "finished" };

/** A round whose global model is in a checkpoint. */
export interface ClosedRecord extends RoundCosts {
  readonly kind: "closed";
  readonly round: number;
  readonly attempt: number;
  /** Lane of each device whose work was folded in, its last one if there were several, by device id. */
  readonly accepted: Readonly<Record<string, number>>;
  /** Every lane that was folded in, where one device may have several. */
  readonly updates?: readonly BufferedUpdate[];
  /** Of `stack`: the largest share of a layer's mean that the rank could not hold. */
  readonly truncation?: number;
}

/** What a round took. */
export interface RoundCosts {
  /** From the end of the round before, or from when enough devices were there, until this one was folded and saved. */
  readonly seconds: number;
  /** The part of these that is neither a device's work nor distillation; absent in asynchronous runs. */
  readonly coordinationSeconds?: number;
}

/** What the global model was worth after a closed round. Written before the next round is closed. */
export type ScoredRecord = Score & {
  readonly kind: "scored";
  readonly round: number;
  /** What the scoring took, while the next round went on. */
  readonly scoringSeconds: number;
};

/** An append-only journal. */
export interface Journal {
  /** What was there when it was opened. */
  readonly records: readonly JournalRecord[];
  /** Resolves once the line is on the disk. */
  append(record: JournalRecord): Promise<void>;
  close(): Promise<void>;
}

/** Where a run folder keeps its journal. */
export function journalFile(runFolder: string): string {
  return join(runFolder, "journal", "records.jsonl");
}

/** The records of a journal that nobody needs to write to. */
export async function readJournal(path: string): Promise<readonly JournalRecord[]> {
  return (await readLines(path)).records;
}

/** Opens the journal, cutting off a torn last line; throws `RUN_JOURNAL_DAMAGED` for any other damage. */
export async function openJournal(path: string): Promise<Journal> {
  const { records, bytes } = await readLines(path);
  const file = await open(path, "a", 0o600);
  await file.truncate(bytes);
  await file.sync();
  await syncFolder(dirname(path));
  return journalOn(file, records);
}

/** Whole lines only, and how many bytes they take. */
async function readLines(
  path: string,
): Promise<{ records: readonly JournalRecord[]; bytes: number }> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
  const lines = text.split("\n").slice(0, -1);
  // A power cut may keep the length of a line that was never acknowledged and lose blocks of it, which then read as zeros.
  if (lines.at(-1)?.includes("\0")) lines.pop();
  const whole = lines.map((line) => `${line}\n`).join("");
  const records = lines.flatMap((line, i) => apart(parseLine(path, line, i + 1)));
  return { records, bytes: Buffer.byteLength(whole) };
}

function journalOn(file: FileHandle, records: readonly JournalRecord[]): Journal {
  let last: Promise<void> = Promise.resolve();
  const write = async (line: string) => {
    // Unlike `write`, it goes on where a nearly full disk took a part.
    await file.appendFile(line);
    await file.datasync();
  };
  return {
    records,
    append: (record) => {
      // None after one that failed: it would follow a torn line, and what a failed sync left is unknown (fsync(2)).
      last = last.then(() => write(`${JSON.stringify(record)}\n`));
      return last;
    },
    close: async () => {
      await last.catch(() => {});
      await file.close();
    },
  };
}

/** Rounds were once closed and scored in one line. */
function apart(record: JournalRecord): readonly JournalRecord[] {
  if (record.kind !== "closed" || !("accuracy" in record || "perplexity" in record))
    return [record];
  const { accuracy, perplexity, ...closed } = record as ClosedRecord & Partial<Score>;
  const score = accuracy === undefined ? { perplexity } : { accuracy };
  const { round } = closed;
  return [closed, { kind: "scored", round, ...(score as Score), scoringSeconds: 0 }];
}

function parseLine(path: string, line: string, number: number): JournalRecord {
  try {
    return JSON.parse(line) as JournalRecord;
  } catch (cause) {
    throw coordinatorErrors.error(
      "RUN_JOURNAL_DAMAGED",
      `${path}:${number} is not a journal line`,
      {
        hint: "Restore the run folder from a copy, or start a new run in another folder.",
        cause,
      },
    );
  }
}
