// Who a certificate says that someone is, at the embedded broker, and what becomes of one that is revoked.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createServer } from "node:tls";
import t, { type Test } from "tap";
import { createAuthority, issueCertificate } from "../../apps/keys/certificates.ts";
import { initKeys, issueKeys, revokedSerials, revokeKeys } from "../../apps/keys/key-folder.ts";
import { connectMqtt, type MqttOptions, startBroker, topicsOf } from "../../broker/index.ts";
import { collect, disconnected } from "./network.ts";

const topics = topicsOf("main");

t.test("the certificate's name is the client, over TLS and over WebSocket", async (t) => {
  const world = await secured(t);
  for (const url of world.urls) {
    const device = await world.connect("pi-4", { url });
    const coordinator = await world.connect("coordinator", { url });
    const heard = await collect(coordinator, topics.device("pi-4", "up"));
    await device.publish(topics.device("pi-4", "up"), Buffer.from("hello"));
    t.same(await heard.texts(1), ["hello"]);
    await t.rejects(world.connect("pi-5", { url, certificate: "pi-4" }), {
      code: "BROKER_CREDENTIALS_REFUSED",
    });
    await t.rejects(world.connect("pi-4", { url, certificate: undefined }), {
      code: "BROKER_CREDENTIALS_REFUSED",
      hint: /--cert/,
    });
    await Promise.all([device.close(), coordinator.close()]);
  }
  t.match(world.log.join("\n"), /refused the connection of pi-5 .*pi-4 must use its own name/);
});

t.test("a certificate of another authority is none", async (t) => {
  const world = await secured(t);
  const stranger = await createAuthority("stranger");
  const { cert, key } = await issueCertificate(stranger, { name: "pi-4" });
  await t.rejects(world.connect("pi-4", { secrets: { cert, key }, patienceMs: 1000 }));
  t.match(world.log.join("\n"), /TLS handshake failed/);
  t.same(world.broker.clientIds(), []);
});

t.test("who is revoked is dropped at once and not let in again; others stay", async (t) => {
  const world = await secured(t);
  const [four, five] = [await world.connect("pi-4"), await world.connect("pi-5")];
  const gone = disconnected(four);
  await revokeKeys(world.folder, "pi-4");
  world.broker.revoke(await revokedSerials(join(world.folder, "crl.pem")));
  await gone;
  await t.rejects(world.connect("pi-4"), { code: "BROKER_CREDENTIALS_REFUSED" });
  t.equal(five.connected, true);
  t.match(world.log.join("\n"), /dropped pi-4: its certificate [0-9a-f]{32} is revoked/);
  t.match(world.log.join("\n"), /refused the connection of pi-4 .*of pi-4 is revoked/);
  await Promise.all([four.close(), five.close()]);
});

t.test("a dashboard reads statuses and nothing else", async (t) => {
  const world = await secured(t);
  const dashboard = await world.connect("dashboard");
  const device = await world.connect("pi-4");
  const seen = await collect(dashboard, topics.everyDeviceStatus);
  for (const filter of [
    topics.device("pi-4", "up"),
    "trifold/1/#",
    "#",
    topics.device("pi-4", "down"),
  ])
    await t.rejects(
      dashboard.subscribe(filter, () => {}),
      { code: "BROKER_SUBSCRIPTION_REFUSED" },
    );
  await device.publish(topics.device("pi-4", "status"), Buffer.from("{}"), { retain: true });
  t.same(await seen.texts(1), ["{}"]);
  const gone = disconnected(dashboard);
  void dashboard.publish(topics.device("pi-4", "down"), Buffer.from("x")).catch(() => {});
  await gone;
  t.match(world.log.join("\n"), /refused dashboard .*to publish .*a dashboard publishes nothing/);
  await Promise.all([dashboard.close(), device.close()]);
});

t.test("with passwords a certificate is one way and a password the other", async (t) => {
  const world = await secured(t, new Map([["pi-5", "secret"]]));
  const four = await world.connect("pi-4");
  const login = { username: "pi-5", password: "secret" };
  const five = await world.connect("pi-5", { certificate: undefined, secrets: login });
  const wrong = { ...login, password: "wrong" };
  await t.rejects(world.connect("pi-5", { certificate: undefined, secrets: wrong }), {
    code: "BROKER_CREDENTIALS_REFUSED",
  });
  await Promise.all([four.close(), five.close()]);
});

t.test(
  "a certificate from the future is a clock that is not set, and is tried again",
  async (t) => {
    const authority = await createAuthority("late", new Date(Date.now() - 86_400_000));
    const tomorrow = new Date(Date.now() + 2 * 86_400_000);
    const holder = { name: "localhost", hosts: ["127.0.0.1"] };
    const { cert, key } = await issueCertificate(authority, holder, tomorrow);
    const server = createServer({ cert, key });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    const ending = new AbortController();
    const log: string[] = [];
    const connecting = connectMqtt({
      url: `mqtts://127.0.0.1:${port}`,
      clientId: "pi-4",
      ca: authority.cert,
      backOff: { firstMs: 1, maxMs: 5 },
      signal: ending.signal,
      log: (line) => {
        log.push(line);
        if (log.length === 3) ending.abort(new Error("seen enough"));
      },
    });
    await t.rejects(connecting, { message: "seen enough" });
    t.match(log[0], /^CLOCK_NOT_SET: .*not valid at this machine's time, 20.*; next try in/);
    await new Promise<void>((resolve) => server.close(() => resolve()));
  },
);

interface Connecting {
  readonly url?: string;
  /** Whose it shows; its own unless told, none when undefined. */
  readonly certificate?: string | undefined;
  readonly secrets?: Partial<MqttOptions>;
  readonly patienceMs?: number;
}

/** An embedded broker that asks for certificates. */
async function secured(t: Test, credentials?: ReadonlyMap<string, string>) {
  const folder = join(t.testdir(), "keys");
  await initKeys(folder);
  for (const name of ["coordinator", "pi-4", "pi-5", "dashboard"])
    await issueKeys(folder, { name, file: name });
  await issueKeys(folder, { name: "localhost", hosts: ["127.0.0.1"], file: "server" });
  const pem = (file: string) => readFileSync(join(folder, file), "utf8");
  const log: string[] = [];
  const broker = await startBroker({
    listeners: [{ scheme: "mqtts" }, { scheme: "wss" }],
    tls: { cert: pem("server.pem"), key: pem("server.key"), ca: pem("ca.pem") },
    ...(credentials ? { credentials } : {}),
    log: (line) => log.push(line),
  });
  t.teardown(() => broker.close());
  const connect = (clientId: string, options: Connecting = {}) => {
    const { url = broker.url, secrets = {}, patienceMs = 10_000 } = options;
    const shown = "certificate" in options ? options.certificate : clientId;
    const own =
      shown && !secrets.cert ? { cert: pem(`${shown}.pem`), key: pem(`${shown}.key`) } : {};
    const signal = AbortSignal.timeout(patienceMs);
    return connectMqtt({
      url,
      clientId,
      ca: pem("ca.pem"),
      ...own,
      ...secrets,
      signal,
      log: () => {},
    });
  };
  return { folder, broker, urls: broker.listeners.map(({ url }) => url), log, connect };
}
