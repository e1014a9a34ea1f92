// What a person can get wrong, through the program as a person runs it: a code, what is wrong and where, what to
// do, the right exit status, nothing on standard output and no stack trace.
import { cp, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { stringify } from "yaml";
import type { RunEvent } from "../../apps/coordinator/events.ts";
import { startCoordinator } from "../../apps/coordinator/start.ts";
import { startDevice } from "../../apps/device/start.ts";
import { exitStatusOf, failureText } from "../../apps/failure.ts";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import { startBroker } from "../../broker/index.ts";
import { boardProfile } from "../../devices/index.ts";
import { float32, randomTensors, saveModelFolder } from "../../runtime/index.ts";
import { type Finished, runTrifold, startTrifold } from "./program.ts";
import { makeWorld, smallConfig, smallTexts, tableOf, writeTask } from "./small-federation.ts";

const root = t.testdir({ empty: {} });
const world = await makeWorld(root);
const environment = { TRIFOLD_CACHE: world.cacheFolder };
const at = (name: string) => join(root, name);
const file = async (name: string, content: string): Promise<string> => {
  await writeFile(at(name), content);
  return at(name);
};
const goodTask = await writeTask(world, "good");
const goodData = await file("good.csv", tableOf(smallTexts("good", 8)));
// Declared, because measuring takes a second.
const goodConfig = await file(
  "good-device.yaml",
  stringify({ threads: 1, profile: boardProfile("pi-5") }),
);

/** Arguments, exit status, and what the text must say. */
type BadInput = readonly [args: readonly string[], status: number, ...texts: readonly RegExp[]];

/** Two at a time, as there are two cores. */
async function refuses(t: Test, cases: readonly BadInput[]): Promise<void> {
  const queue = cases.map(([args, status, ...texts]) => ({ args, status, texts }));
  const work = async (): Promise<void> => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      const { args, status, texts } = next;
      isRefusal(t, await runTrifold(args, environment), status, texts);
    }
  };
  await Promise.all([work(), work()]);
}

function isRefusal(
  t: Test,
  { status, stdout, stderr }: Finished,
  expected: number,
  texts: readonly RegExp[],
): void {
  for (const text of texts) t.match(stderr, text);
  t.match({ status, stdout }, { status: expected, stdout: "" }, stderr);
  t.notMatch(stderr, /^ +at /m, "no stack trace");
  t.notMatch(stderr, /UNEXPECTED/);
}

const coordinator = (task: string, ...args: readonly string[]) => [
  "coordinator",
  ...["--task", task, "--run", at("run"), "--anonymous", "--listen", "mqtt://127.0.0.1:0"],
  ...args,
];

const device = (flags: Readonly<Record<string, string>> = {}) => {
  const good = { broker: "mqtt://127.0.0.1:1", id: "pi", data: goodData, config: goodConfig };
  const all = { ...good, state: at("state"), ...flags };
  return ["device", ...Object.entries(all).flatMap(([name, value]) => [`--${name}`, value])];
};

t.test(
  "a task file that is missing or malformed is refused with file, line and field",
  async (t) => {
    const lines = (await readFile(goodTask, "utf8")).split("\n");
    const lineOf = (text: string) => lines.findIndex((line) => line.includes(text)) + 1;
    const changed = (name: string, from: string, to: string) =>
      file(name, lines.join("\n").replace(from, to));
    const broken = await changed("broken.yaml", "labels:", "labels: [");
    const range = await changed("range.yaml", "batchSize: 4", "batchSize: 0");
    const unknown = await changed("unknown.yaml", "localSteps: 3", "localStep: 3");
    const absent = await changed("absent.yaml", "name: small", "");
    await refuses(t, [
      [coordinator(at("no.yaml")), 2, /^error TASK_FILE_MISSING: .*no\.yaml/, /^hint: /m],
      [coordinator(broken), 2, /^error TASK_FILE_INVALID: .*broken\.yaml:\d+: /],
      [
        coordinator(range),
        2,
        new RegExp(`range\\.yaml:${lineOf("batchSize")}: training\\.batchSize: `),
      ],
      [
        coordinator(unknown),
        2,
        new RegExp(`unknown\\.yaml:${lineOf("localSteps")}: training\\.localStep: .*`),
      ],
      [coordinator(absent), 2, /^error TASK_FILE_INVALID: .*absent\.yaml:1: name: /, /^hint: /m],
    ]);
  },
);

t.test(
  "a table that cannot serve is refused with file and row, and without its cells",
  async (t) => {
    const rows = tableOf(smallTexts("rows", 3));
    const noColumn = await file("no-column.csv", rows.replace("label", "class"));
    const emptyText = await file("empty-text.csv", `${rows}"  ",sea\n`);
    const noRows = await file("no-rows.csv", "text,label\n");
    const broken = await file("broken.csv", `${rows}"the secretword,sea\n`);
    const data = (path: string) => device({ data: path });
    await file("bad-label.csv", `${rows}"the secretword",secretlabel\n`);
    const task = await writeTask(world, "bad-label", { data: { test: "bad-label.csv" } });
    await refuses(t, [
      [data(at("no.csv")), 2, /^error DATA_FILE_INVALID: .*no\.csv/, /^hint: /m],
      [data(noColumn), 2, /^error DATA_COLUMN_MISSING: .*no-column\.csv .*"label".*"class"/],
      [data(emptyText), 2, /^error DATA_TEXT_EMPTY: .*empty-text\.csv: row 4 \(line 5\)/],
      [data(noRows), 2, /^error DATA_EMPTY: .*no-rows\.csv/],
      [data(broken), 2, /^error DATA_FILE_INVALID: .*broken\.csv/, /^((?!secretword).)*$/s],
      [
        coordinator(task),
        2,
        /^error DATA_LABEL_UNKNOWN: .*bad-label\.csv: row 4 \(line 5\)/,
        /^hint: .*land, sea/m,
        /^((?!secretlabel).)*$/s,
      ],
    ]);
  },
);

t.test(
  "a model folder that is incomplete, torn or foreign is refused with file and tensor",
  async (t) => {
    const weights = randomTensors(smallConfig, 2);
    const name = "h.1.mlp.c_fc.weight";
    const without = new Map([...weights].filter(([key]) => key !== name));
    await saveModelFolder(at("missing"), smallConfig, without);
    await saveModelFolder(at("shape"), smallConfig, new Map(weights).set(name, float32([32, 63])));
    await cp(world.modelFolder, at("torn"), { recursive: true });
    await truncate(join(at("torn"), "model.safetensors"), 100_000);
    await cp(world.modelFolder, at("foreign"), { recursive: true });
    const config = JSON.parse(await readFile(join(world.modelFolder, "config.json"), "utf8"));
    const foreign = { ...config, model_type: "bert" };
    await writeFile(join(at("foreign"), "config.json"), JSON.stringify(foreign));
    const train = (folder: string) => ["train", "--model", folder, "--data", goodData];
    const task = await writeTask(world, "no-model", { model: "empty" });
    await refuses(t, [
      [
        train(at("missing")),
        2,
        /^error MODEL_TENSOR_MISSING: .*model\.safetensors .*h\.1\.mlp\.c_fc/,
      ],
      [train(at("shape")), 2, /^error MODEL_TENSOR_SHAPE: .*h\.1\.mlp.*\[32, 63\].*\[32, 64\]/],
      [train(at("torn")), 2, /^error MODEL_FILE_TRUNCATED: .*model\.safetensors/, /^hint: /m],
      [train(at("foreign")), 2, /^error MODEL_UNSUPPORTED: .*config\.json.*bert/],
      [coordinator(task), 2, /^error MODEL_FOLDER_INVALID: .*config\.json/],
      [device({ model: at("missing") }), 2, /^error MODEL_TENSOR_MISSING: .*h\.1\.mlp\.c_fc/],
    ]);
  },
);

t.test("ids and listeners that may not be used are refused", async (t) => {
  await refuses(t, [
    [device({ id: "../pi" }), 2, /^error BROKER_ID_INVALID: .*"\.\.\/pi"/, /^hint: use 1 to 64/m],
    [
      [...coordinator(goodTask), "--listen", "mqtt://0.0.0.0:0"],
      2,
      /^error BROKER_LISTENER_UNPROTECTED: /,
      /^hint: /m,
    ],
  ]);
});

t.test("files and names beside the data are refused in the same form", async (t) => {
  const { signal } = new AbortController();
  const place = { federation: "main", cacheFolder: world.cacheFolder, signal, log: () => {} };
  const columns = { textColumn: "text", labelColumn: "label" };
  const files = { data: goodData, config: goodConfig, state: at("state") };
  const good = { id: "pi", broker: "mqtt://127.0.0.1:1", ...place, ...columns, ...files };
  const run = { task: goodTask, run: at("run"), anonymous: true, onEvent: () => {} };
  const config = await file("bad-device.yaml", "threads: 0\n");
  const budget = await file("bad-budget.yaml", "budget:\n  trainingMemoryBytes: 48 parsecs\n");
  const below = join(goodData, "x");
  const cases: readonly (readonly [() => Promise<unknown>, number, RegExp])[] = [
    [
      () => startDevice({ ...good, federation: "a/b" }),
      2,
      /BROKER_ID_INVALID: .*federation.*"a\/b"/,
    ],
    [() => startDevice({ ...good, broker: "http://here" }), 2, /BROKER_URL_INVALID: /],
    [
      () => startDevice({ ...good, config }),
      2,
      /DEVICE_CONFIG_INVALID: .*bad-device\.yaml: threads: /,
    ],
    [() => startDevice({ ...good, config: budget }), 2, /BUDGET_INVALID: .*trainingMemoryBytes/],
    [
      () => startDevice({ ...good, passwordFile: at("no") }),
      2,
      /SECRET_FILE_UNREADABLE: --password-file/,
    ],
    [() => startDevice({ ...good, state: below }), 1, /DEVICE_STATE_UNUSABLE: .*good\.csv/],
    [
      () => startCoordinator({ ...place, ...run, federation: "a/b" }),
      2,
      /BROKER_ID_INVALID: .*"a\/b"/,
    ],
    [
      () => startCoordinator({ ...place, ...run, run: below }),
      1,
      /RUN_FOLDER_UNUSABLE: .*good\.csv/,
    ],
    [
      () => startCoordinator({ ...place, ...run, listen: ["here"] }),
      2,
      /OPTION_INVALID: --listen here/,
    ],
  ];
  for (const [start, status, text] of cases) {
    const error = await start().catch((reason: unknown) => reason);
    t.match(failureText(error), text);
    t.equal(exitStatusOf(error), status);
  }
});

t.test("a port that is taken and a password that is wrong end the program", async (t) => {
  const credentials = new Map([["pi", "right"]]);
  const broker = await startBroker({ credentials, log: () => {} });
  t.teardown(() => broker.close());
  const secret = await file("secret", "wrong\n");
  const wrong = { broker: broker.url, "password-file": secret };
  const place = ["--broker", broker.url, "--password-file", secret];
  await refuses(t, [
    [
      [...coordinator(goodTask), "--listen", broker.url],
      1,
      new RegExp(`^error BROKER_PORT_TAKEN: port ${broker.port} `),
      /^hint: /m,
    ],
    [device(wrong), 2, /error BROKER_CREDENTIALS_REFUSED: .*pi .*wrong user name or password/],
    [
      ["coordinator", "--task", goodTask, "--run", at("run"), ...place],
      2,
      /error BROKER_CREDENTIALS_REFUSED: .*coordinator/,
    ],
  ]);
});

t.test("an unreachable broker is tried again, louder than silence, until Ctrl-C", async (t) => {
  const programs = [
    device(),
    ["coordinator", "--task", goodTask, "--run", at("run"), "--broker", "mqtt://127.0.0.1:1"],
  ];
  for (const args of programs) {
    const running = startTrifold(args, environment);
    const tries =
      /BROKER_UNREACHABLE: no connection to mqtt:\/\/127\.0\.0\.1:1 \(ECONNREFUSED\); next try in [\d.]+ s/;
    const log = await running.said(new RegExp(`(${tries.source}[^]*){2}`));
    t.match(log, tries);
    running.process.kill("SIGINT");
    const { status, stdout, stderr } = await running.finished;
    t.match({ status, stdout }, { status: 130, stdout: "" });
    t.match(stderr, /\ninterrupted\n$/);
  }
});

t.test("a device that cannot serve the task is told so, and so is the coordinator", async (t) => {
  const ending = new AbortController();
  const refused: Extract<RunEvent, { kind: "refused" }>[] = [];
  let listening = (_url: string) => {};
  const address = new Promise<string>((resolve) => {
    listening = resolve;
  });
  const running = startCoordinator({
    task: await writeTask(world, "strict", {
      selection: { order: ["split"] },
      labelsMayLeave: false,
    }),
    run: at("strict-run"),
    federation: "main",
    listen: ["mqtt://127.0.0.1:0"],
    anonymous: true,
    threads: 1,
    cacheFolder: world.cacheFolder,
    signal: ending.signal,
    onEvent: (event) => {
      if (event.kind === "refused") refused.push(event);
    },
    onListening: listening,
    log: () => {},
  });
  const stopped = t.rejects(running, { message: "enough" });
  const broker = await address;
  const label = await file("label.csv", `text,label\n"the ship",sea\n"the farm",secretlabel\n`);
  const model = world.modelFolder;
  await refuses(t, [
    [
      device({ broker, id: "modelless", model: embeddedModelFolder() }),
      2,
      /error DEVICE_MODEL_MISSING: the task needs model [0-9a-f]{12}, which .*sotu-gpt2 is not/,
      /^hint: Start the device without --model to fetch it, or copy .*state.models/m,
    ],
    [
      device({ broker, id: "mislabelled", model, data: label }),
      2,
      /error DATA_LABEL_UNKNOWN: .*label\.csv: row 2 \(line 3\)/,
      /^((?!secretlabel).)*$/s,
    ],
  ]);
  // Nothing is wrong with this one, so it stays for what the coordinator may do next.
  const fit = startTrifold(device({ broker, id: "fit", model }), environment);
  const log = await fit.said(/hint: Raise one of the limits/);
  t.match(log, /fit: the coordinator cannot use this device: SELECTION_IMPOSSIBLE: .*labels/);
  fit.process.kill("SIGINT");
  t.equal((await fit.finished).status, 130);
  ending.abort(new Error("enough"));
  await stopped;
  const told = refused.map(({ deviceId, code }) => `${deviceId} ${code}`).sort();
  t.same(told, [
    "fit SELECTION_IMPOSSIBLE",
    "mislabelled DATA_LABEL_UNKNOWN",
    "modelless DEVICE_MODEL_MISSING",
  ]);
  t.notMatch(JSON.stringify(refused), /secretlabel/);
});
