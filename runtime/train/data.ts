// Texts and labels in CSV files (RFC 4180). The rows are private: errors name file, row and line, and
// never carry a cell, not even as the cause.
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { CsvError, type Info, parse } from "csv-parse";
import { runtimeErrors, TrifoldError } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";

/** One example of a data file. */
export interface TextRow {
  readonly text: string;
  /** Undefined where the file was read without a label column. */
  readonly label: string | undefined;
}

/** Which columns of a data file are read, and which labels may occur. */
export interface TableOptions {
  readonly textColumn: string;
  readonly labelColumn?: string;
  /** The ordered label list; without it any label is taken. */
  readonly labels?: readonly string[];
}

/**
 * Reads a CSV file in UTF-8 with a header row; quotes, newlines in quotes, BOM and CRLF are understood.
 *
 * Throws `DATA_FILE_INVALID`, `DATA_COLUMN_MISSING`, `DATA_LABEL_UNKNOWN`, `DATA_TEXT_EMPTY` or `DATA_EMPTY`.
 * Rows count from 1 below the header, lines from 1 at the top of the file.
 */
export async function readTable(file: string, options: TableOptions): Promise<readonly TextRow[]> {
  const rows: TextRow[] = [];
  const labels = options.labels === undefined ? undefined : new Set(options.labels);
  let columns: Columns | undefined;
  try {
    await pipeline(
      createReadStream(file),
      decodeUtf8,
      parse(csvOptions),
      async (records: AsyncIterable<CsvRecord>) => {
        for await (const { record, info } of records) {
          if (columns === undefined) columns = findColumns(file, record, options);
          else rows.push(readRow(place(file, rows.length + 1, info), record, columns, labels));
        }
      },
    );
  } catch (cause) {
    throw readError(file, cause);
  }
  if (rows.length === 0) {
    throw runtimeErrors.error("DATA_EMPTY", `${file} has no rows below its header`, {
      hint: "Give a CSV file with a header row and at least one example.",
    });
  }
  return rows;
}

/** The labels that occur, sorted by code unit, so that the order does not depend on the rows'. */
export function collectLabels(rows: readonly TextRow[]): readonly string[] {
  const labels = new Set(rows.flatMap(({ label }) => (label === undefined ? [] : [label])));
  return [...labels].sort();
}

/** Writes rows as CSV with the columns `text` and, when any row has a label, `label`; replaces the file as a whole. */
export async function writeTable(file: string, rows: readonly TextRow[]): Promise<void> {
  const hasLabels = rows.some(({ label }) => label !== undefined);
  const lines = rows.map(({ text, label }) =>
    hasLabels ? `${quote(text)},${quote(label ?? "")}` : quote(text),
  );
  await writeFileAtomic(file, `${[hasLabels ? "text,label" : "text", ...lines].join("\n")}\n`);
}

interface CsvRecord {
  readonly record: readonly string[];
  readonly info: Info;
}

interface Columns {
  readonly text: number;
  /** Undefined when labels are not read. */
  readonly label: number | undefined;
}

/** Longest cell that is read, in UTF-16 code units. */
const maximumCellLength = 2 ** 20;

const csvOptions = {
  info: true,
  // Mixed line ends occur where files were put together by hand.
  record_delimiter: ["\r\n", "\n"],
  skip_empty_lines: true,
  // Bounds the memory that a quote which is never closed takes.
  max_record_size: 16 * maximumCellLength,
};

/** Refuses what is not UTF-8 instead of replacing it; drops the byte order mark. */
async function* decodeUtf8(chunks: AsyncIterable<Buffer>): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  for await (const chunk of chunks) yield decoder.decode(chunk, { stream: true });
  yield decoder.decode();
}

function findColumns(file: string, header: readonly string[], options: TableOptions): Columns {
  const names = header.map((name) => name.trim());
  const find = (column: string): number => {
    const at = names.indexOf(column.trim());
    if (at >= 0 && names.lastIndexOf(column.trim()) === at) return at;
    if (at >= 0) {
      throw runtimeErrors.error("DATA_FILE_INVALID", `${file} has two columns "${column}"`);
    }
    // Shortened, because the first row of a file without a header is private text.
    const known = names.slice(0, 20).map((name) => JSON.stringify(name.slice(0, 40)));
    throw runtimeErrors.error(
      "DATA_COLUMN_MISSING",
      `${file} has no column "${column}"; it has ${known.join(", ")}`,
      { hint: "Name the column; cells are separated by commas and the first row holds the names." },
    );
  };
  const text = find(options.textColumn);
  return { text, label: options.labelColumn === undefined ? undefined : find(options.labelColumn) };
}

function readRow(
  where: string,
  record: readonly string[],
  columns: Columns,
  labels: ReadonlySet<string> | undefined,
): TextRow {
  const text = record[columns.text] ?? "";
  const label = columns.label === undefined ? undefined : (record[columns.label] ?? "");
  if (text.length > maximumCellLength || (label?.length ?? 0) > maximumCellLength) {
    throw runtimeErrors.error(
      "DATA_FILE_INVALID",
      `${where} has a cell of more than ${maximumCellLength} characters`,
      { hint: "Look for a quote that is not closed, or split the text." },
    );
  }
  if (text.trim() === "") {
    throw runtimeErrors.error("DATA_TEXT_EMPTY", `${where} has no text`, {
      hint: "Fill the cell or remove the row.",
    });
  }
  if (label !== undefined && !(labels?.has(label) ?? label !== "")) {
    const known = labels === undefined ? "any text" : [...labels].slice(0, 100).join(", ");
    throw runtimeErrors.error(
      "DATA_LABEL_UNKNOWN",
      `${where} has ${label === "" ? "no label" : "a label that is not in the label list"}`,
      { hint: `Labels that are taken: ${known}.` },
    );
  }
  return { text, label };
}

function place(file: string, row: number, { lines }: Info): string {
  return `${file}: row ${row} (line ${lines})`;
}

function readError(file: string, cause: unknown): unknown {
  if (cause instanceof TrifoldError) return cause;
  if (cause instanceof CsvError) {
    const { code, lines } = cause;
    const fault = csvFaults[code] ?? `cannot be parsed (${code})`;
    return runtimeErrors.error("DATA_FILE_INVALID", `${file}: line ${String(lines)} ${fault}`, {
      hint: "Save the table as CSV (comma separated, UTF-8).",
    });
  }
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  if (code === "ERR_ENCODING_INVALID_ENCODED_DATA") {
    return runtimeErrors.error("DATA_FILE_INVALID", `${file} is not text in UTF-8`, {
      hint: "Save the table as CSV (comma separated, UTF-8).",
    });
  }
  return runtimeErrors.error("DATA_FILE_INVALID", `${file} cannot be read (${code || cause})`, {
    cause,
    hint: "Check that the path exists and may be read.",
  });
}

const csvFaults: Readonly<Partial<Record<CsvError["code"], string>>> = {
  CSV_RECORD_INCONSISTENT_FIELDS_LENGTH: "has another number of cells than the header",
  CSV_QUOTE_NOT_CLOSED: "is the last, and a quote is still open",
  CSV_INVALID_CLOSING_QUOTE: "has characters behind a closing quote",
  CSV_NON_TRIMABLE_CHAR_AFTER_CLOSING_QUOTE: "has characters behind a closing quote",
  INVALID_OPENING_QUOTE: "has a quote inside an unquoted cell",
  CSV_MAX_RECORD_SIZE: "belongs to a row that is too long; a quote may not be closed",
};

/** RFC 4180; a cell that starts or ends with white space is quoted so that no reader trims it. */
function quote(cell: string): string {
  return /[",\r\n]|^\s|\s$|^$/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}
