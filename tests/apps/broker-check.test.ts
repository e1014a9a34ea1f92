// What a coordinator finds out about a broker that is not its own.
import { execFileSync } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import type { ConnectionSecrets } from "../../apps/connection.ts";
import { type CheckedBroker, checkBroker, visitorId } from "../../apps/coordinator/broker-check.ts";
import { exitStatusOf } from "../../apps/failure.ts";
import { brokerRules } from "../../apps/keys/broker-rules.ts";
import { initKeys, issueKeys } from "../../apps/keys/key-folder.ts";
import { connectMqtt, coordinatorId, startBroker } from "../../broker/index.ts";
import { mosquittoMissing, startMosquitto } from "../broker/network.ts";
import { runTrifold } from "./program.ts";
import { makeWorld, writeTask } from "./small-federation.ts";

const secret = { username: coordinatorId, password: "master" };
const refusal = { code: "BROKER_OPEN", hint: /trifold keys acl.*--trust-broker/ };
const skip = mosquittoMissing() ?? false;

t.test("the embedded broker passes, open to its machine or not", async (t) => {
  for (const credentials of [undefined, new Map([[coordinatorId, "master"]])]) {
    const options = credentials === undefined ? {} : { credentials };
    const broker = await startBroker({ listeners: [{}, { scheme: "ws" }], ...options, log });
    for (const { url } of broker.listeners) await t.resolves(check(url), url);
    await broker.close();
  }
});

t.test("Mosquitto without rules is refused, by the program too", { skip }, async (t) => {
  const folder = t.testdir();
  const broker = await startMosquitto(folder);
  t.teardown(() => broker.close());
  const error = await check(`mqtt://127.0.0.1:${broker.port}`).catch((reason: unknown) => reason);
  t.match(error, refusal);
  t.equal(exitStatusOf(error), 2);
  const world = await makeWorld(folder);
  const task = await writeTask(world, "any");
  const address = `mqtt://127.0.0.1:${broker.port}`;
  const args = ["--task", task, "--run", join(folder, "run"), "--broker", address];
  const environment = { TRIFOLD_CACHE: world.cacheFolder };
  const { status, stderr } = await runTrifold(["coordinator", ...args], environment);
  t.equal(status, 2);
  t.match(stderr, /^error BROKER_OPEN: /m);
});

t.test("Mosquitto with passwords for some and rules for none is refused", { skip }, async (t) => {
  const folder = t.testdir();
  await t.rejects(checkMosquitto(t, folder, ["allow_anonymous true"]), refusal);
});

t.test("Mosquitto passes with rules, or if it lets in no stranger", { skip }, async (t) => {
  const folder = t.testdir();
  const rules = join(folder, "acl");
  writeFileSync(rules, `user ${coordinatorId}\ntopic readwrite trifold/1/#\n`);
  await t.resolves(checkMosquitto(t, folder, ["allow_anonymous true", `acl_file ${rules}`]));
  await t.resolves(checkMosquitto(t, folder, ["allow_anonymous false"]));
});

t.test(
  "Mosquitto that knows its devices and has no rules for them is refused",
  {
    skip,
  },
  async (t) => {
    const folder = t.testdir();
    const [rules, lines] = [join(folder, "acl"), [] as string[]];
    const grants = [
      `user ${coordinatorId}`,
      "topic readwrite trifold/1/#",
      "pattern write trifold/1/+/devices/%u/up",
    ];
    writeFileSync(rules, grants.join("\n"));
    const visitor = { password: "visitor's" };
    const log = (line: string) => lines.push(line);
    const closed = ["allow_anonymous false"];
    await t.rejects(checkMosquitto(t, folder, closed, { visitor }), {
      ...refusal,
      message: /the device "visitor" publish/,
    });
    const ruled = [...closed, `acl_file ${rules}`];
    await t.resolves(checkMosquitto(t, folder, ruled, { visitor, log }));
    t.same(lines, []);
    await t.resolves(checkMosquitto(t, folder, closed, { visitor: { password: "wrong" }, log }));
    await t.resolves(checkMosquitto(t, folder, closed, { log }));
    t.match(lines, [/not tried: "visitor" was not let in/, /not tried: no secret of "visitor"/]);
  },
);

t.test("Mosquitto that asks for certificates is refused without rules", { skip }, async (t) => {
  const folder = join(t.testdir(), "keys");
  await initKeys(folder);
  for (const name of [coordinatorId, visitorId]) await issueKeys(folder, { name, file: name });
  await issueKeys(folder, { name: "localhost", hosts: ["127.0.0.1"], file: "server" });
  // Mosquitto gives up root's rights before it reads them.
  for (const name of readdirSync(folder)) chmodSync(join(folder, name), 0o644);
  chmodSync(folder, 0o755);
  const [settings = "", acl = ""] = brokerRules("mosquitto", folder).split(/^# .*mosquitto\.acl$/m);
  writeFileSync(join(folder, "mosquitto.acl"), acl);
  const pem = (file: string) => readFileSync(join(folder, file), "utf8");
  const of = (name: string) => ({ cert: pem(`${name}.pem`), key: pem(`${name}.key`) });
  const ca = pem("ca.pem");
  const options = { ca, own: { ca, ...of(coordinatorId) }, visitor: of(visitorId) };
  const run = async (text: string) => {
    const lines = text.replace(/^listener .*$/m, "").split("\n");
    const mosquitto = await startMosquitto(t.testdirName, lines);
    t.teardown(() => mosquitto.close());
    await check(`mqtts://127.0.0.1:${mosquitto.port}`, options);
  };
  await t.rejects(run(settings.replace(/^acl_file .*$/m, "")), refusal);
  await t.resolves(run(settings));
});

function log(): void {}

async function checkMosquitto(
  t: Test,
  folder: string,
  settings: readonly string[],
  options: Partial<CheckedBroker> = {},
): Promise<void> {
  const passwords = join(folder, "passwords");
  const { username, password } = secret;
  const add = (...args: string[]) => execFileSync("mosquitto_passwd", args, { stdio: "pipe" });
  add("-c", "-b", passwords, username, password);
  add("-b", passwords, visitorId, "visitor's");
  const broker = await startMosquitto(folder, [...settings, `password_file ${passwords}`]);
  t.teardown(() => broker.close());
  await check(`mqtt://127.0.0.1:${broker.port}`, options);
}

async function check(
  url: string,
  { own = secret, ...options }: Partial<CheckedBroker> & { readonly own?: ConnectionSecrets } = {},
): Promise<void> {
  const transport = await connectMqtt({ url, clientId: coordinatorId, ...own, log });
  try {
    await checkBroker({ url, federation: "main", transport, log, ...options });
  } finally {
    await transport.close();
  }
}
