// What a coordinator finds out about a broker that is not its own.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { checkBroker } from "../../apps/coordinator/broker-check.ts";
import { exitStatusOf } from "../../apps/failure.ts";
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

function log(): void {}

async function checkMosquitto(t: Test, folder: string, settings: readonly string[]): Promise<void> {
  const passwords = join(folder, "passwords");
  const { username, password } = secret;
  execFileSync("mosquitto_passwd", ["-c", "-b", passwords, username, password], { stdio: "pipe" });
  const broker = await startMosquitto(folder, [...settings, `password_file ${passwords}`]);
  t.teardown(() => broker.close());
  await check(`mqtt://127.0.0.1:${broker.port}`);
}

async function check(url: string): Promise<void> {
  const transport = await connectMqtt({ url, clientId: coordinatorId, ...secret, log });
  try {
    await checkBroker({ url, federation: "main", transport });
  } finally {
    await transport.close();
  }
}
