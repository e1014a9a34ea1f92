// `trifold profile` and `trifold broker` as a person runs them.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { measureGemm } from "../../apps/device/gemm-probe.ts";
import { type ProfileReport, profileReport } from "../../apps/profile/report.ts";
import { profileText } from "../../apps/profile/report-text.ts";
import { connectMqtt } from "../../broker/index.ts";
import { boardKeys } from "../../devices/index.ts";
import { runTrifold, startTrifold } from "./program.ts";

const root = t.testdir();
const cacheFolder = join(root, "cache");
const environment = { TRIFOLD_CACHE: cacheFolder };
const { signal } = new AbortController();

t.test(
  "this machine's profile is measured through the engine, and something fits it",
  async (t) => {
    const { status, stdout, stderr } = await runTrifold(["profile", "--json"], environment);
    t.equal(status, 0, stderr);
    const { profile, providers, selection, task } = JSON.parse(stdout) as ProfileReport;
    // What was tried and works is what the profile names.
    t.same(providers?.map(({ name }) => name).sort(), ["cpu", "cuda"]);
    t.same(
      profile.providers.toSorted(),
      providers?.flatMap(({ name, works }) => (works ? [name] : [])).sort(),
    );
    t.equal(profile.gemmFlopsPerSecond.origin, "measured");
    // The slowest board of the catalogue reaches 6e9; no processor reaches 1e14 in float32.
    const rate = profile.gemmFlopsPerSecond.value;
    t.ok(rate > 5e8 && rate < 1e14, `${rate} FLOP/s`);
    t.equal(profile.memory.totalBytes.origin, "measured");
    t.same(task, { name: "example", order: ["full", "split", "kd"] });
    t.equal(selection.assignment?.protocol, "full");
    // full, kd and a cut behind each block but the last of the embedded model.
    t.equal(selection.table.length, 5);
  },
);

t.test("every board of the catalogue has a table with all candidates", async (t) => {
  for (const board of boardKeys) {
    const report = await profileReport({ board, cacheFolder, signal });
    t.equal(report.profile.board.key, board);
    const text = profileText(report);
    t.match(text, /full +fits/, board);
    t.match(text, /^computes on: cpu$/m, board);
    t.equal(
      /compute capability \d\.\d: The GPU needs .* rebuilt/.test(text),
      /jetson|orin/.test(board),
    );
    t.match(text, /\n-> full: first in the task's order/, board);
  }
  await t.rejects(profileReport({ board: "pi", cacheFolder, signal }), {
    code: "BOARD_UNKNOWN",
    hint: /pi-zero-2w/,
  });
});

t.test("a budget in the configuration rejects with figure and limit", async (t) => {
  const config = join(root, "device.yaml");
  const unlimited = await profileReport({ board: "pi-zero-2w", cacheFolder, signal });
  const needed = unlimited.selection.table[0]?.candidate.cost.peakMemoryBytes as number;
  // Whole megabytes below what full takes; a cut spares a quarter or more.
  const allowed = Math.floor((0.95 * needed) / 1e6);
  await writeFile(config, `budget:\n  trainingMemoryBytes: ${allowed} MB\n`);
  const report = await profileReport({ board: "pi-zero-2w", config, cacheFolder, signal });
  const { assignment, table } = report.selection;
  t.equal(assignment?.protocol, "split");
  const full = table.find(({ candidate }) => candidate.protocol === "full");
  t.equal(full?.feasible, false);
  t.match(full?.text, `MB of ${allowed}.0 MB`);
  t.match(profileText(report), new RegExp(`full +no .*${allowed}\\.0 MB`));
  await writeFile(config, "budget:\n  trainingMemoryBytes: 1 MB\n");
  const nothing = await profileReport({ board: "pi-4", config, cacheFolder, signal });
  t.equal(nothing.selection.assignment, undefined);
  t.match(profileText(nothing), /-> nothing fits/);
});

t.test("a task file decides what is planned", async (t) => {
  const task = join(root, "task.yaml");
  await writeFile(join(root, "test.csv"), "text,label\nhello there,a\ngood bye,b\n");
  const head = "head: { kind: classification, labels: [a, b] }";
  const rest = "data: { test: test.csv }\nselection: { order: [split, full] }";
  await writeFile(task, `name: mine\n${head}\n${rest}\n`);
  const { task: planned, selection } = await profileReport({
    board: "pi-5",
    task,
    cacheFolder,
    signal,
  });
  t.same(planned, { name: "mine", order: ["split", "full"] });
  // Labels may not leave, so split is refused although it comes first.
  t.equal(selection.assignment?.protocol, "full");
  t.match(selection.table[0]?.text, /split.*labels/);
});

t.test("wrong names and files end with status 2", async (t) => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["--board", "pi"], /^error BOARD_UNKNOWN: .*"pi"\nhint: Boards: pi-zero-2w/],
    [["--task", join(root, "absent.yaml")], /^error TASK_FILE_MISSING: .*absent\.yaml/],
    [["--config", join(root, "absent.yaml")], /^error DEVICE_CONFIG_INVALID: .*absent\.yaml/],
  ];
  for (const [args, text] of cases) {
    const { status, stdout, stderr } = await runTrifold(["profile", ...args], environment);
    t.equal(status, 2, args.join(" "));
    t.equal(stdout, "");
    t.match(stderr, text);
  }
});

t.test("an aborted measurement stops", async (t) => {
  const controller = new AbortController();
  controller.abort(new Error("enough"));
  await t.rejects(measureGemm({ size: 8, signal: controller.signal }), { message: "enough" });
});

t.test("the broker alone serves clients until it is told to stop", async (t) => {
  const running = startTrifold([
    "broker",
    "--anonymous",
    "--listen",
    "mqtt://127.0.0.1:0",
    "--json",
  ]);
  const line = await new Promise<string>((resolve) => {
    running.process.stdout?.once("data", (bytes: Buffer) => resolve(bytes.toString()));
  });
  const { url, port } = JSON.parse(line) as { url: string; port: number };
  t.equal(url, `mqtt://127.0.0.1:${port}`);
  const client = await connectMqtt({ url, clientId: "board-1", log: () => undefined });
  t.ok(client.connected);
  const taken = await runTrifold(["broker", "--anonymous", "--listen", url]);
  t.equal(taken.status, 1, "the port is taken: a failure, not a wrong command");
  t.match(taken.stderr, /^error BROKER_PORT_TAKEN: /);
  await client.close();
  running.process.kill("SIGINT");
  const { status, stderr } = await running.finished;
  t.equal(status, 0, stderr);
});

t.test("a broker that would be open to the network is refused", async (t) => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["--listen", "mqtt://0.0.0.0:0"], /^error BROKER_LISTENER_UNPROTECTED: /],
    [["--anonymous", "--listen", "ws://0.0.0.0:0"], /^error BROKER_LISTENER_UNPROTECTED: .*beyond/],
    [[], /^error BROKER_LISTENER_UNPROTECTED: .*\n.*--credentials FILE .*--anonymous/],
    [["--anonymous", "--credentials", "users.txt"], /^error OPTION_INVALID: .*exclude/],
    [["--listen", "here"], /^error OPTION_INVALID: --listen here/],
    [["--anonymous", "--listen", "wss://127.0.0.1:0"], /^error OPTION_INVALID: .*--cert and --key/],
  ];
  for (const [args, text] of cases) {
    const { status, stdout, stderr } = await runTrifold(["broker", ...args]);
    t.equal(status, 2, args.join(" "));
    t.equal(stdout, "");
    t.match(stderr, text);
  }
});
