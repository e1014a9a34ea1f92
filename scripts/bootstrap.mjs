// What `npm start`, `npm test` and `npm run bench` run first: checks Node, installs the locked dependencies,
// builds, then hands over. Plain JavaScript on Node alone, because in a fresh clone nothing else is there yet.
// Everything but the program's own results goes to standard error.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const OLDEST_NODE = [20, 19];
const STAMP = join(ROOT, "node_modules", ".trifold-install");

const PROGRAMS = {
  demo: ["dist/apps/cli.js", "demo"],
  test: ["dist/scripts/run-tests.js"],
  bench: ["dist/benchmarks/main.js"],
};

const [command = "demo", ...args] = process.argv.slice(2);
const program = PROGRAMS[command];
if (program === undefined) {
  stop(2, `Unknown command ${command}: it is one of ${Object.keys(PROGRAMS).join(", ")}.`);
}
checkNode();
install();
build();
run([...program, ...args]);

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1])) {
    stop(
      1,
      `Trifold needs Node ${OLDEST_NODE.join(".")} or newer, this is ${process.versions.node}. ` +
        "Install a newer one: https://nodejs.org/en/download",
    );
  }
}

/** `npm ci`, unless the installed packages are already the locked ones for this Node. */
function install() {
  const lock = readFileSync(join(ROOT, "package-lock.json"), "utf8");
  const wanted = createHash("sha256")
    .update(`node ${process.versions.node.split(".")[0]} ${process.platform} ${process.arch}\n`)
    .update(lock)
    .digest("hex");
  if (existsSync(STAMP) && readFileSync(STAMP, "utf8") === wanted) {
    return;
  }
  // No stamp of ours: whoever ran `npm ci` by hand need not wait for a second one.
  if (existsSync(STAMP) || !isInstalled(JSON.parse(lock).packages)) {
    log("Installing the locked dependencies (npm ci) ...");
    const { status } = npm(["ci", "--include=dev"]);
    if (status !== 0) {
      stop(
        1,
        "npm ci failed, see above. Trifold needs the npm registry once; nothing else is downloaded.",
      );
    }
  }
  writeFileSync(STAMP, wanted);
}

/** Whether npm's own record of node_modules holds every locked package; optional ones may be for other platforms. */
function isInstalled(locked) {
  const record = join(ROOT, "node_modules", ".package-lock.json");
  if (!existsSync(record)) {
    return false;
  }
  const installed = JSON.parse(readFileSync(record, "utf8")).packages;
  return Object.entries(locked).every(
    ([path, { version, optional }]) =>
      path === "" || installed[path]?.version === version || (optional && !installed[path]),
  );
}

function npm(npmArgs) {
  // `npm start --silent` and `--json` reach us as settings and would silence or reshape this npm too.
  const { npm_config_loglevel: _level, npm_config_json: _json, ...env } = process.env;
  const cli = process.env.npm_execpath;
  const [file, ...prefix] = cli?.endsWith(".js") ? [process.execPath, cli] : ["npm"];
  return spawnSync(file, [...prefix, ...npmArgs], {
    cwd: ROOT,
    env,
    stdio: ["ignore", 2, 2],
    shell: file === "npm" && process.platform === "win32",
  });
}

/** Compiles what changed since the last build. */
function build() {
  const compiler = join("node_modules", "typescript", "bin", "tsc");
  if (!existsSync(join(ROOT, "dist", ".tsbuildinfo"))) {
    log("Building ...");
  }
  const { status } = spawnSync(process.execPath, [compiler, "-p", "tsconfig.json"], {
    cwd: ROOT,
    stdio: ["ignore", 2, 2],
  });
  if (status !== 0) {
    log("The build failed: the errors are above.");
    if (command === "test") {
      process.stdout.write("0 passed, 1 failed, 0 skipped\n");
    }
    process.exit(1);
  }
}

/** Runs the program as this process's own: its streams, its signals, its exit code. */
function run(nodeArgs) {
  const child = spawn(process.execPath, nodeArgs, { cwd: ROOT, stdio: "inherit" });
  const forward = (signal) => {
    // On a terminal Ctrl+C reaches the whole process group; a second one would mean "at once".
    if (signal !== "SIGINT" || !process.stdin.isTTY) {
      child.kill(signal);
    }
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
  for (const signal of signals) {
    process.on(signal, forward);
  }
  if (process.env.npm_lifecycle_event !== undefined && process.platform !== "win32") {
    stopWithParent(() => child.kill("SIGTERM"));
  }
  child.on("error", (error) => stop(1, `Cannot start ${nodeArgs[0]}: ${error.message}`));
  child.on("exit", (code, signal) => {
    if (signal === null) {
      process.exit(code ?? 1);
    }
    for (const name of signals) {
      process.off(name, forward);
    }
    process.kill(process.pid, signal);
  });
}

/** npm passes a signal on to its shell, which dies of it and tells nobody: notice that, or the boards run on. */
function stopWithParent(onGone) {
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid !== parent) {
      clearInterval(watch);
      onGone();
    }
  }, 500);
}

function log(text) {
  process.stderr.write(`${text}\n`);
}

function stop(exitCode, text) {
  log(text);
  process.exit(exitCode);
}
