// CSV tables of private rows: what is understood, what comes back, and errors that name rows but never cells.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import fc from "fast-check";
import t from "tap";
import { TrifoldError } from "../../runtime/errors.ts";
import { collectLabels, readTable, type TextRow, writeTable } from "../../runtime/train/data.ts";

const columns = { textColumn: "text", labelColumn: "label" };
const banking = resolve("..", "shared", "data", "banking77", "train.csv");
const skipBanking = existsSync(banking) ? false : "no Banking77 table in ../shared";

t.test("quotes, newlines, byte order mark and both line ends are understood", async (t) => {
  const tables = {
    "CRLF and BOM": '\ufefftext,label\r\n"two\r\nlines, ""quoted""",a\r\nplain,b\r\n',
    "mixed line ends": 'text,label\r\n"two\r\nlines, ""quoted""",a\n\nplain,b',
    "columns in another order, with others and spaces around names":
      'id, label ,text\n1,a,"two\r\nlines, ""quoted"""\n2,b,plain\n',
  };
  for (const [title, table] of Object.entries(tables)) {
    const rows = await readTable(csv(t, table), columns);
    const expected = [
      { text: 'two\r\nlines, "quoted"', label: "a" },
      { text: "plain", label: "b" },
    ];
    t.same(rows, expected, title);
  }
});

t.test("without a label column rows carry no label", async (t) => {
  const rows = await readTable(csv(t, "text,label\nhello,\n"), { textColumn: "text" });
  t.same(rows, [{ text: "hello", label: undefined }]);
  t.same(collectLabels(rows), []);
});

t.test("labels are collected once each, in an order that the rows do not decide", async (t) => {
  const rows = ["b", "a", "B", "b", "10", "9"].map((label) => ({ text: "x", label }));
  t.same(collectLabels(rows), ["10", "9", "B", "a", "b"]);
  t.same(collectLabels([...rows].reverse()), collectLabels(rows));
});

t.test("whatever is written is read back", async (t) => {
  const file = join(t.testdir(), "rows.csv");
  const word = fc
    .string({ unit: "binary", minLength: 1 })
    .map((text) => text.replace(/[\ud800-\udfff]/g, ""));
  const nasty = fc.constantFrom('"', ",", "\n", "\r\n", "\r", " ", "\ufeff", "é", "日", "🙂");
  const cell = fc
    .array(fc.oneof(word, nasty), { minLength: 1 })
    .map((parts) => `x${parts.join("")}`);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ text: cell, label: cell }), { minLength: 1, maxLength: 5 }),
      async (rows) => {
        await writeTable(file, rows);
        t.same(await readTable(file, columns), rows);
      },
    ),
    { numRuns: 60 },
  );
  const texts: readonly TextRow[] = [{ text: " padded ", label: undefined }];
  await writeTable(file, texts);
  t.equal(readFileSync(file, "utf8"), 'text\n" padded "\n');
  t.same(await readTable(file, { textColumn: "text" }), texts);
});

const secret = "my-secret-words";
const refusals: readonly {
  readonly title: string;
  readonly table: string | Buffer;
  readonly code: string;
  readonly message: RegExp;
}[] = [
  {
    title: "an unknown label",
    table: `text,label\n"a\nb",a\n${secret},${secret}\n`,
    code: "DATA_LABEL_UNKNOWN",
    message: /rows\.csv: row 2 \(line 4\)/,
  },
  {
    title: "a label of the wrong case",
    table: `text,label\n${secret},A\n`,
    code: "DATA_LABEL_UNKNOWN",
    message: /row 1/,
  },
  {
    title: "no label",
    table: `text,label\n${secret},\n`,
    code: "DATA_LABEL_UNKNOWN",
    message: /row 1 .*no label/,
  },
  {
    title: "an empty text",
    table: `text,label\n${secret},a\n" \t",a\n`,
    code: "DATA_TEXT_EMPTY",
    message: /rows\.csv: row 2 \(line 3\)/,
  },
  {
    title: "no such column",
    table: `body,label\n${secret},a\n`,
    code: "DATA_COLUMN_MISSING",
    message: /no column "text"; it has "body", "label"/,
  },
  {
    title: "another separator",
    table: `text;label\n${secret};a\n`,
    code: "DATA_COLUMN_MISSING",
    message: /"text;label"/,
  },
  {
    title: "a column twice",
    table: `text,label,text\n${secret},a,b\n`,
    code: "DATA_FILE_INVALID",
    message: /two columns "text"/,
  },
  { title: "a header alone", table: "text,label\n", code: "DATA_EMPTY", message: /rows\.csv/ },
  { title: "nothing", table: "", code: "DATA_EMPTY", message: /rows\.csv/ },
  {
    title: "a cell too many",
    table: `text,label\nok,a\n${secret},a,${secret}\n`,
    code: "DATA_FILE_INVALID",
    message: /line 3 has another number of cells/,
  },
  {
    title: "a quote never closed",
    table: `text,label\nok,a\n"${secret},a\n`,
    code: "DATA_FILE_INVALID",
    message: /quote is still open/,
  },
  {
    title: "a quote inside a plain cell",
    table: `text,label\n${secret}"x,a\n`,
    code: "DATA_FILE_INVALID",
    message: /line 2 has a quote inside/,
  },
  {
    title: "text behind a closing quote",
    table: `text,label\n"${secret}"x,a\n`,
    code: "DATA_FILE_INVALID",
    message: /line 2 has characters behind/,
  },
  {
    title: "a cell of more than a megabyte",
    table: `text,label\n${secret.repeat(80_000)},a\n`,
    code: "DATA_FILE_INVALID",
    message: /row 1 \(line 2\) has a cell of more than 1048576/,
  },
  {
    title: "a row without an end",
    table: `text,label\n"${secret.repeat(1_200_000)}`,
    code: "DATA_FILE_INVALID",
    message: /too long/,
  },
  {
    title: "another encoding",
    table: Buffer.from(`text,label\n${secret} é,a\n`, "latin1"),
    code: "DATA_FILE_INVALID",
    message: /not text in UTF-8/,
  },
  {
    title: "text cut off inside a character",
    table: Buffer.from(`text,label\nok,a\n${secret},é`).subarray(0, -1),
    code: "DATA_FILE_INVALID",
    message: /not text in UTF-8/,
  },
];
t.test("bad tables are refused by file and row, and no cell leaves with the error", async (t) => {
  for (const { title, table, code, message } of refusals) {
    const reading = readTable(csv(t, table), { ...columns, labels: ["a", "b"] });
    const error = await reading.then(
      () => undefined,
      (cause: unknown) => cause,
    );
    t.ok(error instanceof TrifoldError, title);
    t.match(error, { code, message }, title);
    t.notMatch(everythingOf(error), secret, `${title}: no private text`);
  }
});

t.test("a file that cannot be read is named", async (t) => {
  const folder = t.testdir();
  const absent = readTable(join(folder, "absent.csv"), columns);
  await t.rejects(absent, { code: "DATA_FILE_INVALID", message: /absent\.csv .*ENOENT/ });
  await t.rejects(readTable(folder, columns), { code: "DATA_FILE_INVALID", message: /EISDIR/ });
});

t.test("Banking77 is read whole and written back", { skip: skipBanking }, async (t) => {
  const rows = await readTable(banking, { textColumn: "text", labelColumn: "category" });
  // Figures of the data set's own description.
  t.equal(rows.length, 10_003);
  t.equal(collectLabels(rows).length, 77);
  const copy = join(t.testdir(), "copy.csv");
  await writeTable(copy, rows);
  t.equal(JSON.stringify(await readTable(copy, columns)), JSON.stringify(rows));
});

function csv(t: { testdir(): string }, content: string | Buffer): string {
  const file = join(t.testdir(), "rows.csv");
  writeFileSync(file, content);
  return file;
}

/** Text, hint, stack and causes of an error. */
function everythingOf(error: unknown): string {
  if (!(error instanceof Error)) return JSON.stringify(error) ?? "";
  const own = Object.getOwnPropertyNames(error).map((key) => String(Reflect.get(error, key)));
  return [...own, everythingOf(error.cause)].join("\n");
}
