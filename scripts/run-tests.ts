// `npm test` once installed and built: lint, unused code, tests. Each check counts as one test in the last line,
// which counts tests and not assertions (tap-results.ts says what one test is). With files: only those tests.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestResult, tapResults } from "./tap-results.ts";

const COLORS = process.stdout.isTTY ? "force" : "off";
const BIOME = ["node_modules/@biomejs/biome/bin/biome", "ci", `--colors=${COLORS}`];
const KNIP = ["node_modules/knip/bin/knip.js", "--no-progress"];
const TAP = "node_modules/tap/dist/esm/run.mjs";
const TAP_SETTINGS = ".taprc";
/** Says with which settings the runner was built. A new installation has none. */
const TAP_STAMP = join("node_modules", ".trifold-tap");
/** More of one failure buries the others. */
const MOST_DETAIL_LINES = 60;

/** Words of skips that count as failures: CI sets it to what it has installed, such as "mosquitto". */
const forbiddenSkips = (process.env["TRIFOLD_FORBID_SKIPS"] ?? "")
  .split(",")
  .map((word) => word.trim().toLowerCase())
  .filter((word) => word !== "");

const chosen = process.argv.slice(2);
const checks =
  chosen.length > 0 ? [] : [await check("lint", BIOME), await check("unused code", KNIP)];
const results = [...checks, ...(await runTests(chosen.length > 0 ? chosen : allTests()))];
report(results);
process.exitCode = results.some((result) => result.outcome === "failed") ? 1 : 0;

/** Runs a tool whose exit code is the verdict; what it says is shown as it comes. */
async function check(name: string, command: readonly string[]): Promise<TestResult> {
  const child = spawn(process.execPath, command, { stdio: ["ignore", "inherit", "inherit"] });
  const exitCode = await new Promise<number | null>((resolve) => {
    child.on("close", resolve);
  });
  const outcome = exitCode === 0 ? "passed" : "failed";
  print(`${outcome === "passed" ? "ok  " : "FAIL"}  ${name}`);
  return { outcome, path: [name], details: [`${command.join(" ")} exited with ${exitCode}`] };
}

async function runTests(files: readonly string[]): Promise<TestResult[]> {
  buildRunner();
  const child = spawn(process.execPath, [TAP, "--reporter=tap", ...files.map(compiled)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exit = new Promise<number | null>((resolve) => {
    child.on("close", resolve);
  });
  const lines = createInterface({ input: child.stdout, crlfDelay: Number.POSITIVE_INFINITY });
  const found: TestResult[] = [];
  let counted = 0;
  for await (const result of tapResults(lines, print)) {
    const [file = ""] = result.path;
    if (found.length > 0 && found.at(-1)?.path[0] !== source(file)) {
      counted = printFile(found, counted);
    }
    found.push(judged({ ...result, path: [source(file), ...result.path.slice(1)] }));
  }
  printFile(found, counted);
  return [...found, ...unreported(files, found, await exit)];
}

/** Tap builds itself with the plugins of its settings in its first run, which has loaded the default ones by then. */
function buildRunner(): void {
  const settings = readFileSync(TAP_SETTINGS, "utf8");
  if (existsSync(TAP_STAMP) && readFileSync(TAP_STAMP, "utf8") === settings) {
    return;
  }
  const { status } = spawnSync(process.execPath, [TAP, "build"], { stdio: ["ignore", 2, 2] });
  if (status === 0) {
    writeFileSync(TAP_STAMP, settings);
  }
}

/** What the runner leaves out: after a timeout it forgets the files that ran beside. */
function unreported(
  files: readonly string[],
  found: readonly TestResult[],
  exitCode: number | null,
): TestResult[] {
  const reported = new Set(found.map((result) => result.path[0]));
  const missing = files.map((file) => source(compiled(file))).filter((file) => !reported.has(file));
  if (
    missing.length === 0 &&
    exitCode !== 0 &&
    found.every(({ outcome }) => outcome !== "failed")
  ) {
    missing.push("tap");
  }
  const details = [`No result: the test runner exited with ${exitCode}. What it said is above.`];
  return missing.map((file) => ({ outcome: "failed", path: [file], details }));
}

/** A skip that is forbidden here becomes a failure. */
function judged(result: TestResult): TestResult {
  const text = [...result.path, result.reason ?? ""].join(" ").toLowerCase();
  const word = forbiddenSkips.find((forbidden) => text.includes(forbidden));
  if (result.outcome !== "skipped" || word === undefined) {
    return result;
  }
  const details = [
    `Skipped (${result.reason}), but TRIFOLD_FORBID_SKIPS says that ${word} is here.`,
  ];
  return { ...result, outcome: "failed", details };
}

function printFile(found: readonly TestResult[], from: number): number {
  const tests = found.slice(from);
  const [first] = tests;
  if (first !== undefined) {
    const failed = tests.filter((test) => test.outcome === "failed").length;
    const verdict = failed === 0 ? "ok  " : "FAIL";
    print(
      `${verdict}  ${first.path[0]}: ${tests.length} tests${failed ? `, ${failed} failed` : ""}`,
    );
  }
  return found.length;
}

function report(all: readonly TestResult[]): void {
  const of = (outcome: TestResult["outcome"]) => all.filter((test) => test.outcome === outcome);
  for (const { path, reason } of of("skipped")) {
    print(`\nSKIP  ${path.join(" > ")}\n      ${reason}`);
  }
  for (const { path, details } of of("failed")) {
    const shown = details.slice(0, MOST_DETAIL_LINES);
    const rest = details.length - shown.length;
    const lines = rest > 0 ? [...shown, `... and ${rest} more lines`] : shown;
    print(`\nFAIL  ${path.join(" > ")}\n${lines.map((line) => `      ${line}`).join("\n")}`);
  }
  const [passed, failed, skipped] = [of("passed"), of("failed"), of("skipped")];
  print(`\n${passed.length} passed, ${failed.length} failed, ${skipped.length} skipped`);
}

/** Every test that has a source; dist may still hold one whose source is gone. */
function allTests(): string[] {
  return readdirSync("tests", { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.ts"))
    .sort()
    .map((file) => join("tests", file));
}

function compiled(file: string): string {
  return file.endsWith(".ts") ? join("dist", file.replace(/\.ts$/, ".js")) : file;
}

function source(file: string): string {
  return file.replace(/^dist[\\/]/, "").replace(/\.js$/, ".ts");
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
