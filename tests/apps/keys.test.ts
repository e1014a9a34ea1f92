// `trifold keys`: what it issues is judged by OpenSSL, and what it writes for Mosquitto by Mosquitto.
import { spawnSync } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { brokerRules } from "../../apps/keys/broker-rules.ts";
import { createAuthority, issueCertificate } from "../../apps/keys/certificates.ts";
import { initKeys, issueKeys, revokeKeys } from "../../apps/keys/key-folder.ts";
import { connectMqtt, type Transport, topicsOf } from "../../broker/index.ts";
import { collect, disconnected, mosquittoMissing, startMosquitto } from "../broker/network.ts";
import { runTrifold, startTrifold } from "./program.ts";

const openssl = spawnSync("openssl", ["version"]).status === 0;
const without = openssl ? false : "openssl is not installed";

t.test("an authority, a server, devices: OpenSSL believes them", { skip: without }, async (t) => {
  const folder = join(t.testdir(), "keys");
  await keys(t, ["init"], folder);
  const server = await keys(t, ["server", "lab.local", "192.168.1.10"], folder);
  t.same(server["hosts"], ["localhost", "127.0.0.1", "::1", "lab.local", "192.168.1.10"]);
  await keys(t, ["device", "pi-4"], folder);
  const file = (name: string) => join(folder, name);
  const verify = (name: string, purpose: string) =>
    ask(["verify", "-x509_strict", "-purpose", purpose, "-CAfile", file("ca.pem"), file(name)]);
  t.match(verify("server.pem", "sslserver").stdout, /OK/);
  t.match(verify("pi-4.pem", "sslclient").stdout, /OK/);
  t.match(verify("coordinator.pem", "sslclient").stdout, /OK/);
  t.not(verify("pi-4.pem", "sslserver").status, 0, "a device is no server");
  const text = ask(["x509", "-noout", "-text", "-in", file("server.pem")]).stdout;
  t.match(text, /DNS:lab\.local, IP Address:192\.168\.1\.10/);
  t.match(text, /prime256v1/);
  t.match(ask(["x509", "-noout", "-subject", "-in", file("pi-4.pem")]).stdout, /CN ?= ?pi-4/);
  const pairOf = (name: string) => [
    ask(["x509", "-noout", "-pubkey", "-in", file(`${name}.pem`)]).stdout,
    ask(["pkey", "-pubout", "-in", file(`${name}.key`)]).stdout,
  ];
  for (const name of ["ca", "server", "pi-4"]) t.equal(...(pairOf(name) as [string, string]), name);
  const modes = readdirSync(folder).filter((name) => name.endsWith(".key"));
  for (const name of modes) t.equal(statSync(file(name)).mode & 0o777, 0o600, name);
  t.equal(statSync(folder).mode & 0o777, 0o700);
});

t.test("what is revoked is on the list, which OpenSSL believes", { skip: without }, async (t) => {
  const folder = await withDevices(t, ["pi-4", "pi-5"]);
  t.match(await keys(t, ["revoke", "pi-4"], folder), { name: "pi-4", certificates: 1 });
  const file = (name: string) => join(folder, name);
  const verify = (name: string) =>
    ask([
      "verify",
      "-crl_check",
      "-CRLfile",
      file("crl.pem"),
      "-CAfile",
      file("ca.pem"),
      file(name),
    ]);
  t.match(verify("pi-4.pem").stderr, /certificate revoked/);
  t.match(verify("pi-5.pem").stdout, /OK/);
  const list = () => ask(["crl", "-noout", "-text", "-in", file("crl.pem")]).stdout;
  t.match(list(), /X509v3 CRL Number:\s+4\n/);
  await issueKeys(folder, { name: "pi-5", file: "pi-5" }, { renew: true });
  t.equal(list().match(/Serial Number/g)?.length, 2, "the renewed one's former certificate too");
  t.match(verify("pi-5.pem").stdout, /OK/, "the new one is good");
});

t.test("nothing is overwritten, and what is missing is said", async (t) => {
  const folder = join(t.testdir(), "keys");
  const device = (name: string) => issueKeys(folder, { name, file: name });
  await t.rejects(device("pi-4"), {
    code: "KEYS_MISSING",
    message: /no authority/,
    hint: /keys init/,
  });
  await initKeys(folder);
  const before = readFileSync(join(folder, "ca.key"));
  await t.rejects(initKeys(folder), { code: "KEYS_EXIST" });
  t.ok(readFileSync(join(folder, "ca.key")).equals(before));
  await device("pi-4");
  await t.rejects(device("pi-4"), { code: "KEYS_EXIST", hint: /--renew/ });
  await t.rejects(revokeKeys(folder, "pi-5"), { code: "KEYS_MISSING", hint: /to: pi-4\./ });
  writeFileSync(join(folder, "issued.json"), "{");
  await t.rejects(revokeKeys(folder, "pi-4"), { code: "KEYS_DAMAGED" });
  for (const [name, code] of [
    ["coordinator", /^error BROKER_ID_INVALID/],
    ["server", /^error OPTION_INVALID/],
  ] as const) {
    const { stdout, stderr } = await runTrifold(["keys", "device", name, "--keys", folder]);
    t.match({ stdout, stderr }, { stdout: "", stderr: code });
  }
});

t.test("certificates of a serial's lifetime are what they say", { skip: without }, async (t) => {
  const folder = t.testdir();
  const now = new Date("2026-03-01T00:00:00Z");
  const authority = await createAuthority("test", now);
  const issued = await issueCertificate(authority, { name: "a" }, now);
  writeFileSync(join(folder, "a.pem"), issued.cert);
  const { stdout } = ask(["x509", "-noout", "-dates", "-serial", "-in", join(folder, "a.pem")]);
  t.match(stdout, /notBefore=Feb 28 00:00:00 2026 GMT/);
  t.match(stdout, /notAfter=May 29 00:00:00 2028 GMT/);
  t.match(stdout.toLowerCase(), new RegExp(`serial=${issued.serial}`));
});

t.test(
  "the program's broker asks for certificates, and hears of a revocation at once",
  async (t) => {
    const folder = await withDevices(t, ["pi-4", "pi-5"]);
    await issueKeys(folder, { name: "localhost", hosts: ["127.0.0.1"], file: "server" });
    const running = startTrifold(["broker", "--listen", "mqtts://127.0.0.1:0", "--keys", folder]);
    t.teardown(() => void running.process.kill("SIGKILL"));
    const line = await new Promise<string>((resolve) =>
      running.process.stdout?.once("data", (bytes) => resolve(String(bytes))),
    );
    const url = /mqtts:\S+/.exec(line)?.[0] ?? "";
    const four = await connectWith(folder, "pi-4", url);
    const five = await connectWith(folder, "pi-5", url);
    const gone = disconnected(four);
    await revokeKeys(folder, "pi-4");
    await gone;
    t.equal(five.connected, true);
    await t.rejects(connectWith(folder, "pi-4", url), { code: "BROKER_CREDENTIALS_REFUSED" });
    await Promise.all([four.close(), five.close()]);
    running.process.kill("SIGINT");
    t.equal((await running.finished).status, 0);
  },
);

t.test("Mosquitto lives by the rules", { skip: mosquittoMissing() ?? false }, async (t) => {
  const folder = await withDevices(t, ["coordinator", "pi-4", "pi-5", "pi-6", "dashboard"]);
  await issueKeys(folder, { name: "localhost", hosts: ["127.0.0.1"], file: "server" });
  await revokeKeys(folder, "pi-6");
  // Mosquitto gives up root's rights before it reads them.
  for (const name of readdirSync(folder)) chmodSync(join(folder, name), 0o644);
  chmodSync(folder, 0o755);
  const [settings = "", acl = ""] = brokerRules("mosquitto", folder).split(/^# .*mosquitto\.acl$/m);
  writeFileSync(join(folder, "mosquitto.acl"), acl);
  const mosquitto = await startMosquitto(
    t.testdirName,
    settings.replace(/^listener .*$/m, "").split("\n"),
  );
  t.teardown(() => mosquitto.close());
  const connect = (name: string) =>
    connectWith(folder, name, `mqtts://127.0.0.1:${mosquitto.port}`);
  const coordinator = await connect("coordinator");
  const [four, five] = [await connect("pi-4"), await connect("pi-5")];
  const dashboard = await connect("dashboard");
  const topics = topicsOf("main");
  const heard = await collect(coordinator, "trifold/1/#");
  const seen = await collect(dashboard, topics.everyDeviceStatus);
  const secret = await collect(dashboard, topics.device("pi-4", "up"));
  const foreign = await collect(five, topics.device("pi-4", "down"));
  const say = async (who: Transport, topic: string) => who.publish(topic, Buffer.from(topic));
  await say(five, topics.device("pi-4", "up"));
  await say(five, topics.device("pi-5", "down"));
  await say(dashboard, topics.device("pi-4", "up"));
  await say(four, topics.device("pi-4", "status"));
  await say(four, topics.device("pi-4", "up"));
  await say(coordinator, topics.device("pi-4", "down"));
  const allowed = [topics.device("pi-4", "status"), topics.device("pi-4", "up")];
  t.same(await heard.texts(3), [...allowed, topics.device("pi-4", "down")]);
  t.same(await seen.texts(1), [topics.device("pi-4", "status")]);
  t.same([secret.messages, foreign.messages], [[], []]);
  await t.rejects(connect("pi-6"), "revoked");
  await Promise.all([coordinator, four, five, dashboard].map((one) => one.close()));
});

/** Connects with the certificate of that name. */
function connectWith(folder: string, name: string, url: string): Promise<Transport> {
  const pem = (file: string) => readFileSync(join(folder, file), "utf8");
  const secrets = { ca: pem("ca.pem"), cert: pem(`${name}.pem`), key: pem(`${name}.key`) };
  const signal = AbortSignal.timeout(5000);
  return connectMqtt({ url, clientId: name, ...secrets, signal, log: () => {} });
}

async function withDevices(t: Test, names: readonly string[]): Promise<string> {
  const folder = join(t.testdir(), "keys");
  await initKeys(folder);
  for (const name of names) await issueKeys(folder, { name, file: name });
  return folder;
}

async function keys(t: Test, args: readonly string[], folder: string) {
  const { status, stdout, stderr } = await runTrifold([
    "keys",
    ...args,
    "--keys",
    folder,
    "--json",
  ]);
  t.equal(status, 0, stderr);
  return JSON.parse(stdout) as Readonly<Record<string, unknown>>;
}

function ask(args: readonly string[]) {
  return spawnSync("openssl", args, { encoding: "utf8" });
}
