// What a benchmark reports, and what its figures must reach.

/** One figure of a suite. */
export interface Row {
  readonly figure: string;
  /** Undefined where the machine lacks what it takes; `reason` says what. */
  readonly value: number | undefined;
  readonly unit: string;
  /** What the project promises, such as `<= 2.10`; absent for figures that only inform. */
  readonly mustReach?: Bound;
  /**
   * In the same unit, 0 for a single measurement: half the interquartile range of repeated times, half the 95 % interval
   * of a mean over seeds.
   */
  readonly spread: number;
  /** Repeats this measurement. */
  readonly command: string;
  readonly reason?: string;
}

/** An inclusive limit. */
export interface Bound {
  readonly relation: "<=" | ">=";
  readonly limit: number;
}

/** Whether a promise is kept; null where there is none or nothing was measured. */
export function isReached({ value, mustReach }: Row): boolean | null {
  if (value === undefined || mustReach === undefined) return null;
  return mustReach.relation === "<=" ? value <= mustReach.limit : value >= mustReach.limit;
}

/** The promised rows as the JSON document of `--json`. */
export function rowsAsJson(rows: readonly Row[]): unknown {
  return rows
    .filter((row) => row.mustReach !== undefined)
    .map((row) => ({
      figure: row.figure,
      value: row.value ?? null,
      unit: row.unit,
      mustReach: boundText(row),
      ok: isReached(row),
      spread: row.spread,
      command: row.command,
      ...(row.reason === undefined ? {} : { reason: row.reason }),
    }));
}

/** The cells of a table for people. */
export function rowAsCells(row: Row): readonly string[] {
  const { figure, value, unit, spread, reason = "not measured" } = row;
  const digits = value !== undefined && value < 10 ? 3 : 1;
  const verdict = { true: "ok", false: "MISSED", null: "" }[String(isReached(row)) as "null"];
  return [
    figure,
    value === undefined ? reason : value.toFixed(digits),
    spread === 0 ? "" : `+-${spread.toFixed(digits)}`,
    unit,
    boundText(row),
    verdict,
  ];
}

function boundText({ mustReach }: Row): string {
  return mustReach === undefined ? "" : `${mustReach.relation} ${mustReach.limit}`;
}
