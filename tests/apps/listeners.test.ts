// The coordinator's own broker, met from outside.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { startCoordinator } from "../../apps/coordinator/start.ts";
import { connectMqtt, topicsOf } from "../../broker/index.ts";
import { createCertificate, opensslMissing } from "../broker/certificate.ts";
import { collect } from "../broker/network.ts";
import { makeWorld, writeTask } from "./small-federation.ts";

const skip = opensslMissing() ?? false;

t.test(
  "a coordinator speaks TLS itself, in two ways, and needs no password of its own",
  { skip },
  async (t) => {
    const folder = t.testdir();
    const world = await makeWorld(folder);
    const { cert } = createCertificate(folder);
    const credentials = join(folder, "users.txt");
    await writeFile(credentials, "pi:right\n");
    const ending = new AbortController();
    const logs: string[] = [];
    let listening = (_url: string) => {};
    const address = new Promise<string>((resolve) => {
      listening = resolve;
    });
    const running = startCoordinator({
      task: await writeTask(world, "tls"),
      run: join(folder, "run"),
      federation: "main",
      listen: ["wss://127.0.0.1:0", "mqtts://127.0.0.1:0"],
      credentials,
      cert: join(folder, "cert.pem"),
      key: join(folder, "key.pem"),
      threads: 1,
      cacheFolder: world.cacheFolder,
      signal: ending.signal,
      onEvent: () => {},
      onListening: listening,
      log: (line) => logs.push(line),
    });
    const stopped = t.rejects(running, { message: "enough" });
    t.match(await address, /^wss:/);
    const urls = logs.join().match(/(wss|mqtts):[^,\s]+/g) ?? [];
    t.equal(urls.length, 2, logs.join("\n"));
    for (const url of urls) {
      const place = { url, clientId: "pi", username: "pi", ca: cert, log: () => {} };
      const device = await connectMqtt({ ...place, password: "right" });
      const inbox = await collect(device, topicsOf("main").coordinatorStatus);
      t.match(await inbox.texts(1), [/"state":"online"/]);
      await device.close();
      await t.rejects(connectMqtt({ ...place, password: "wrong" }), {
        code: "BROKER_CREDENTIALS_REFUSED",
      });
    }
    ending.abort(new Error("enough"));
    await stopped;
  },
);
