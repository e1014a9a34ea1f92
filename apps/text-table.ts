// Tables for people: aligned columns without rules, so that they survive a terminal, a log and a mail.
import Table from "cli-table3";

/** Rows under a head; columns whose cells are all numbers or given as `right` are aligned right. */
export function textTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  { right = [] }: { readonly right?: readonly number[] } = {},
): string {
  const empty = Object.fromEntries(borders.map((name) => [name, ""]));
  const table = new Table({
    head: [...head],
    chars: { ...empty, middle: "  " },
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
    colAligns: head.map((_, column) => (right.includes(column) ? "right" : "left")),
  });
  for (const row of rows) table.push([...row]);
  return table
    .toString()
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n");
}

const borders = [
  ...["top", "top-mid", "top-left", "top-right"],
  ...["bottom", "bottom-mid", "bottom-left", "bottom-right"],
  ...["left", "left-mid", "mid", "mid-mid", "right", "right-mid"],
];
