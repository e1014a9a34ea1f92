// Protocols of others: the example holds to the contract and takes part beside `full`; what is none is refused.
import { readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import t from "tap";
import { readDeviceConfig } from "../../apps/device/config.ts";
import { loadProtocols, withBuiltIns } from "../../apps/protocol-packages.ts";
import { type AnyProtocol, builtInProtocols, protocolContract } from "../../protocols/index.ts";
import { openToy, toyExamples } from "../protocols/toy.ts";
import {
  federate,
  frameworksOf,
  makeWorld,
  type SmallDevice,
  writeTask,
} from "./small-federation.ts";

const example = resolve("examples/sign-protocol.mjs");
const loadOne = async (name: string, folder = "."): Promise<AnyProtocol> =>
  (await loadProtocols({ names: [name], folder }))[0] as AnyProtocol;

t.test("the example keeps the contract", async (t) => {
  const toy = await openToy(t);
  const { engine, model, publicSet } = toy;
  const [train, holdOut] = [toyExamples("train", 14), toyExamples("hold-out", 6)];
  const setting = { task: toy.task(), engine, model, publicSet, train, holdOut };
  protocolContract(t, await loadOne(example), setting);
});

t.test("the example is complete in at most 80 lines", async (t) => {
  const lines = (await readFile(example, "utf8")).trimEnd().split("\n");
  t.ok(lines.length <= 80, `${lines.length} lines`);
});

t.test("a device of another protocol teaches one global model beside a full one", async (t) => {
  const world = await makeWorld(t.testdir());
  const task = await writeTask(world, "sign", {
    training: { localSteps: 8, learningRate: 2e-2 },
    selection: { order: ["sign", "full"] },
    cohort: { minimumDevices: 2 },
  });
  const devices: SmallDevice[] = [
    { id: "a", protocols: ["full"] },
    { id: "b", protocols: ["full", example] },
  ];
  const run = join(world.folder, "run");
  const federated = await federate(world, { task, run, devices, protocols: [example] });
  t.same(frameworksOf(federated), { a: "full", b: "sign" });
  // The topics share no noun; guessing gives a half, with a deviation of 0.08 over 40 texts.
  const { accuracy = 0 } = federated.result;
  t.ok(accuracy >= 0.9, `accuracy ${accuracy}`);
  const reports = federated.records.flatMap((record) =>
    record.kind === "report" ? [[record.deviceId, record.report] as const] : [],
  );
  const [uplink, raw] = (["uplinkBytes", "rawUplinkBytes"] as const).map((name) =>
    reports.filter(([id]) => id === "b").reduce((sum, [, report]) => sum + report[name], 0),
  ) as [number, number];
  // One bit in place of 32, under headers that weigh a lot beside so small an adapter.
  t.ok(uplink < raw / 3, `${uplink} of ${raw} bytes`);
});

t.test("a configuration's list is what its device has", async (t) => {
  const folder = t.testdir({
    "some.yaml": "protocols: [kd, ./mine.mjs]",
    "mine.mjs": sourceOf("mine"),
    "none.yaml": "threads: 1",
    "empty.yaml": "protocols: []",
  });
  const namesIn = async (file: string) =>
    (await readDeviceConfig(join(folder, file))).protocols.map(({ name }) => name);
  t.same(await namesIn("some.yaml"), ["kd", "mine"]);
  t.same(await namesIn("none.yaml"), ["full", "kd", "split"]);
  await t.rejects(namesIn("empty.yaml"), { code: "DEVICE_CONFIG_INVALID", message: /protocols/ });
});

t.test("a package is looked for from the folder of the configuration", async (t) => {
  const folder = t.testdir({
    node_modules: {
      "@acme": {
        gossip: {
          "package.json": '{ "name": "@acme/gossip", "type": "module", "exports": "./index.js" }',
          "index.js": sourceOf("gossip"),
        },
      },
    },
  });
  t.match(await loadOne("@acme/gossip", folder), { name: "gossip", version: 1 });
  const all = await withBuiltIns({ names: ["@acme/gossip", "full"], folder });
  t.same(
    all.map(({ name }) => name),
    ["full", "kd", "split", "gossip"],
  );
});

t.test("what is no protocol is refused with the package and the field", async (t) => {
  const folder = t.testdir({ "throws.mjs": "throw new Error('at work')" });
  const refusal = async (source: string) => {
    const file = `./${Math.abs(hash(source))}.mjs`;
    await writeFile(join(folder, file), source);
    return loadOne(file, folder);
  };
  const invalid = (message: RegExp) => ({ code: "PROTOCOL_PACKAGE_INVALID", message });
  await t.rejects(refusal("export const other = {};"), invalid(/protocol: /));
  await t.rejects(refusal(sourceOf("../x")), invalid(/protocol\.name: expected 1 to 64 letters/));
  await t.rejects(refusal(sourceOf("x").replace("version: 1", "version: 0")), invalid(/version/));
  for (const name of methods) {
    const without = sourceOf("x").replace(`${name}: () => {}`, `${name}: 1`);
    await t.rejects(
      refusal(without),
      invalid(new RegExp(`protocol\\.${name}: expected a function`)),
    );
  }
  for (const { name } of builtInProtocols) {
    await t.rejects(refusal(sourceOf(name)), invalid(new RegExp(`another .* called "${name}"`)));
  }
  await writeFile(join(folder, "one.mjs"), sourceOf("same"));
  await writeFile(join(folder, "two.mjs"), sourceOf("same"));
  const twice = loadProtocols({ names: ["./one.mjs", "./two.mjs"], folder });
  await t.rejects(twice, invalid(/"\.\/two\.mjs".*another protocol is called "same"/));
  for (const name of ["./absent.mjs", "@acme/absent", "./throws.mjs"]) {
    const missing = { code: "PROTOCOL_PACKAGE_MISSING", message: name, hint: /full, kd, split/ };
    await t.rejects(loadOne(name, folder), missing);
  }
});

t.test(
  "an order that names what the coordinator lacks is refused before anything listens",
  async (t) => {
    const world = await makeWorld(t.testdir());
    const task = await writeTask(world, "order", { selection: { order: ["sign", "full"] } });
    const run = join(world.folder, "run");
    await t.rejects(federate(world, { task, run, devices: [] }), {
      code: "PROTOCOL_UNKNOWN",
      message: /selection\.order names "sign"; this coordinator has full, kd, split/,
      hint: /--protocol/,
    });
  },
);

const methods = ["estimate", "parseDown", "parseUp", "rawBytes", "createClient", "createServer"];

/** A module with a protocol of the right shape. */
function sourceOf(name: string): string {
  const body = methods.map((method) => `${method}: () => {}`).join(", ");
  return `export const protocol = { name: ${JSON.stringify(name)}, version: 1, ${body} };`;
}

function hash(text: string): number {
  return [...text].reduce((sum, letter) => (31 * sum + letter.charCodeAt(0)) | 0, 7);
}
