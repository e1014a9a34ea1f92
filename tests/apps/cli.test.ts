// The program's skeleton: help, exit statuses, one form of errors.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import t from "tap";
import { defaultCacheFolder } from "../../apps/cache-folder.ts";
import { exitStatusOf, failureText, interruption, usageCodes } from "../../apps/failure.ts";
import { catalogues } from "../../scripts/error-page.ts";
import { runTrifold } from "./program.ts";

t.test("help lists every command, and every command explains itself with examples", async (t) => {
  const { status, stdout } = await runTrifold(["--help"]);
  t.equal(status, 0);
  const commands = [...stdout.matchAll(/^ {2}([a-z]+) .*\[options\]/gm)].map(
    ([, name = ""]) => name,
  );
  t.ok(commands.includes("verify") && commands.includes("train"), stdout);
  t.match(stdout, /0 done, 1 failed, 2 wrong usage/);
  const helps = commands.map((name) => runTrifold([name, "--help"]));
  for (const [i, help] of (await Promise.all(helps)).entries()) {
    const name = commands[i] ?? "";
    t.equal(help.status, 0, name);
    t.match(help.stdout, new RegExp(`Examples:\n +\\$ trifold ${name}`));
    t.match(help.stdout, /--json/, name);
  }
});

t.test("wrong usage ends with status 2 and one text", async (t) => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["fly"], /^error USAGE_INVALID: unknown command 'fly'\nhint: .*--help/],
    [["train", "--data", "x", "--fast"], /^error USAGE_INVALID: unknown option '--fast'/],
    [["train"], /^error USAGE_INVALID: required option '--data <file>' not specified/],
    [["verify", "a", "b", "--reference", "c"], /^error USAGE_INVALID: too many arguments/],
  ];
  for (const [args, text] of cases) {
    const { status, stdout, stderr } = await runTrifold(args);
    t.match({ status, stdout }, { status: 2, stdout: "" }, args.join(" "));
    t.match(stderr, text);
  }
  const bare = await runTrifold([]);
  t.equal(bare.status, 2);
  t.equal(bare.stdout, "");
  t.match(bare.stderr, /Usage: trifold/);
});

t.test("the version is that of package.json", async (t) => {
  const { status, stdout } = await runTrifold(["--version"]);
  t.equal(status, 0);
  t.match(stdout, /^\d+\.\d+\.\d+\n$/);
});

t.test("a reader that goes away is no failure", async (t) => {
  const program = fileURLToPath(new URL("../../apps/cli.js", import.meta.url));
  const child = spawn(process.execPath, [program, "--help"], { stdio: ["ignore", "pipe", "pipe"] });
  child.stdout.destroy();
  const [status] = await once(child, "close");
  t.equal(status, 0);
});

t.test("every code that means wrong usage exists, so none is left behind by a change", (t) => {
  const codes = Object.values(catalogues).flatMap(({ meanings }) => Object.keys(meanings));
  t.equal(new Set(codes).size, codes.length, "a code belongs to one catalogue");
  for (const known of usageCodes) {
    if (known === "USAGE_INVALID") continue;
    const exists = codes.some((code) =>
      known.endsWith("_") ? code.startsWith(known) : code === known,
    );
    t.ok(exists, known);
  }
  t.end();
});

t.test("codes decide the exit status", (t) => {
  const coded = (code: string) => Object.assign(new Error("x"), { code });
  t.equal(exitStatusOf(coded("DATA_COLUMN_MISSING")), 2);
  t.equal(exitStatusOf(coded("TASK_FILE_INVALID")), 2);
  t.equal(exitStatusOf(coded("TRAINING_DIVERGED")), 1);
  t.equal(exitStatusOf(coded("BROKER_PORT_TAKEN")), 1);
  t.equal(exitStatusOf(coded("ENOENT")), 1);
  t.equal(exitStatusOf(new Error("no code")), 1);
  t.equal(exitStatusOf("thrown text"), 1);
  t.equal(exitStatusOf(interruption()), 130);
  t.end();
});

t.test("an error of any class prints code, text, causes and hint, each on one line", (t) => {
  const root = new Error("connect\n  refused");
  const middle = new Error("socket closed", { cause: root });
  const error = Object.assign(new Error("broker is gone\nreally", { cause: middle }), {
    code: "BROKER_UNREACHABLE",
    hint: "Start it.",
  });
  t.equal(
    failureText(error),
    "error BROKER_UNREACHABLE: broker is gone; really\ncaused by: socket closed <- connect; refused\nhint: Start it.\n",
  );
  t.match(failureText(error, { debug: true }), /\n {4}at /);
  t.match(
    failureText(new TypeError("x is not a function")),
    /^error UNEXPECTED: x is.*\nhint: .*TRIFOLD_DEBUG/,
  );
  const quoting = new Error("Graph a: bad shape", { cause: new Error("bad shape") });
  t.notMatch(failureText(quoting), /caused by/);
  const circular: Error = new Error("a");
  circular.cause = circular;
  t.match(failureText(circular), /^error UNEXPECTED: a\n/);
  t.end();
});

t.test("models are cached where the user's system keeps caches", (t) => {
  t.equal(defaultCacheFolder({ TRIFOLD_CACHE: "/a", XDG_CACHE_HOME: "/b" }), "/a");
  t.equal(defaultCacheFolder({ XDG_CACHE_HOME: "/b" }), "/b/trifold");
  t.match(defaultCacheFolder({ TRIFOLD_CACHE: "" }), /\.cache\/trifold$/);
  t.end();
});
