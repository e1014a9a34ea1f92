// Reads the TAP 14 that the test runner prints and yields one result per test. A test is a block without
// blocks inside; a file whose assertions stand outside any block counts as one test.

/** How one test ended. */
export interface TestResult {
  readonly outcome: "passed" | "failed" | "skipped";
  /** File and titles from the outside in. */
  readonly path: readonly string[];
  /** Why it was skipped. */
  readonly reason?: string;
  /** What failed: assertion titles and their diagnostics. */
  readonly details: readonly string[];
}

/** Results of a TAP stream, file by file; `onOther` gets the lines that are not TAP (what tests print). */
export async function* tapResults(
  lines: AsyncIterable<string>,
  onOther: (line: string) => void,
): AsyncGenerator<TestResult> {
  const reader = createReader(onOther);
  for await (const line of lines) {
    const done = reader.read(line);
    if (done !== undefined) {
      yield* leaves(done, []);
    }
  }
  const last = reader.end();
  if (last !== undefined) {
    yield* leaves(last, []);
  }
}

/** One "ok" or "not ok" line with what belongs to it. */
interface Point {
  readonly ok: boolean;
  readonly title: string;
  readonly directive: "SKIP" | "TODO" | undefined;
  readonly reason: string;
  readonly diagnostics: string[];
  /** The points inside, when it closes a block. */
  readonly inside: readonly Point[];
  readonly isBlock: boolean;
}

const INDENT = 4;
const POINT = /^( *)(not )?ok \d+(?: - (.*))?$/;
const DIRECTIVE = /^(.*?)\s*(?<!\\)# (?:(SKIP|TODO)\b ?(.*)|time=.*)$/i;

/** Assembles points into trees; `read` returns a tree whenever one at the outermost level is complete. */
function createReader(onOther: (line: string) => void) {
  /** Points seen so far at each depth, while their block is open. */
  const open: Point[][] = [[]];
  const blockDepths = new Set<number>();
  let last: { readonly point: Point; readonly indent: number } | undefined;
  let diagnosticsIndent: number | undefined;

  function readPoint(match: RegExpExecArray): Point | undefined {
    const [, indent = "", not, text = ""] = match;
    const depth = Math.floor(indent.length / INDENT);
    const isBlock = blockDepths.delete(depth);
    const inside = isBlock ? (open[depth + 1] ?? []) : [];
    open.length = depth + 1;
    const point = { ...parseText(text), ok: not === undefined, diagnostics: [], inside, isBlock };
    last = { point, indent: indent.length };
    const siblings = open[depth] ?? [];
    open[depth] = [...siblings, point];
    return depth === 0 ? point : undefined;
  }

  /** Whether the line belongs to a diagnostics block, which is kept with its point. */
  function isDiagnostics(line: string): boolean {
    if (diagnosticsIndent !== undefined) {
      if (line === `${" ".repeat(diagnosticsIndent)}...`) {
        diagnosticsIndent = undefined;
      } else {
        last?.point.diagnostics.push(line.slice(diagnosticsIndent));
      }
      return true;
    }
    if (last !== undefined && line === `${" ".repeat(last.indent + 2)}---`) {
      diagnosticsIndent = last.indent + 2;
      return true;
    }
    return false;
  }

  /** A complete tree, once its diagnostics have followed. */
  let pending: Point | undefined;

  function take(): Point | undefined {
    const point = pending;
    pending = undefined;
    return point;
  }

  function readOther(line: string): void {
    const block = /^( *)# Subtest: /.exec(line);
    if (block !== null) {
      const depth = Math.floor((block[1] ?? "").length / INDENT);
      blockDepths.add(depth);
      open.length = depth + 1;
      open[depth + 1] = [];
    } else if (!/^\s*(#.*|\d+\.\.\d+.*|TAP version 14|)$/.test(line)) {
      onOther(line);
    }
  }

  return {
    read(line: string): Point | undefined {
      if (isDiagnostics(line)) {
        return undefined;
      }
      const complete = take();
      const match = POINT.exec(line);
      if (match !== null) {
        pending = readPoint(match);
      } else {
        readOther(line);
      }
      return complete;
    },
    end: take,
  };
}

function parseText(text: string): Pick<Point, "title" | "directive" | "reason"> {
  const match = DIRECTIVE.exec(text);
  const unescaped = (part: string) => part.replace(/\\([#\\])/g, "$1");
  const directive = match?.[2]?.toUpperCase();
  return {
    title: unescaped(match?.[1] ?? text),
    directive: directive === "SKIP" || directive === "TODO" ? directive : undefined,
    reason: unescaped(match?.[3] ?? ""),
  };
}

function* leaves(point: Point, outer: readonly string[]): Generator<TestResult> {
  const path = [...outer, point.title];
  // A skipped block prints no "# Subtest" line: beside blocks, or alone in a file, it is a test, else an assertion.
  const isFile = outer.length === 0;
  const holdsTests = point.inside.some((inner) => inner.isBlock || (isFile && isExcused(inner)));
  if (!holdsTests) {
    yield resultOf(point, path);
    return;
  }
  const tests = point.inside.filter((inner) => inner.isBlock || isExcused(inner));
  for (const test of tests) {
    yield* leaves(test, path);
  }
  // A file can fail beside its tests: an assertion between them, a crash after the last, a timeout.
  const stray = point.inside.filter((inner) => !tests.includes(inner) && isFailure(inner));
  if (stray.length > 0 || (isFailure(point) && !tests.some(isFailure))) {
    yield { outcome: "failed", path, details: details([...stray, point]) };
  }
}

function isExcused(point: Point): boolean {
  return point.directive !== undefined;
}

function resultOf(point: Point, path: readonly string[]): TestResult {
  const skip = [point, ...point.inside].find(isExcused);
  if (isFailure(point)) {
    return {
      outcome: "failed",
      path,
      details: details([...point.inside.filter(isFailure), point]),
    };
  }
  if (skip !== undefined) {
    return { outcome: "skipped", path, reason: skip.reason || skip.title, details: [] };
  }
  return { outcome: "passed", path, details: [] };
}

function isFailure(point: Point): boolean {
  return !point.ok && point.directive === undefined;
}

function details(points: readonly Point[]): string[] {
  return points.flatMap(({ title, diagnostics, isBlock }) =>
    isBlock && points.length > 1 ? [] : [title, ...diagnostics.map((line) => `  ${line}`)],
  );
}
