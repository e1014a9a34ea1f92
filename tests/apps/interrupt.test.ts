// A program that is told to stop while native code computes: it saves what it has, says goodbye and does not wait.
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { startCoordinator } from "../../apps/coordinator/start.ts";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import { connectMqtt, coordinatorId, startBroker, topicsOf } from "../../broker/index.ts";
import {
  type Gpt2Config,
  loadAdapter,
  randomTensors,
  saveModelFolder,
} from "../../runtime/index.ts";
import { startTrifold } from "./program.ts";
import { smallTexts, tableOf, writeDevice, writeTask } from "./small-federation.ts";

const folder = t.testdir();
const modelFolder = join(folder, "model");
const cacheFolder = join(folder, "cache");
const environment = { TRIFOLD_CACHE: cacheFolder };
/** 38 million weights; with 2,048 tokens 0.2 TFLOP a step below the last block, seconds on one thread. */
const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 2048,
  positions: 128,
  hiddenSize: 1024,
  layers: 3,
  heads: 8,
  innerSize: 4096,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};
await saveModelFolder(modelFolder, config, randomTensors(config, 1));
await copyFile(join(embeddedModelFolder(), "tokenizer.json"), join(modelFolder, "tokenizer.json"));
const tables = ["test", "public"].map((name) => join(folder, `${name}.csv`));
for (const table of tables) await writeFile(table, tableOf(smallTexts(table, 4)));

t.test("SIGTERM in the middle of a step saves the steps before it and ends at once", async (t) => {
  const out = join(folder, "adapter");
  // The texts are short: their batches run on a graph of 32 tokens.
  const sizes = ["--batch-size", "64", "--sequence-length", "128", "--threads", "1"];
  const data = ["--model", modelFolder, "--data", tables[0] as string, "--hold-out", "0"];
  const args = ["train", ...data, ...sizes, "--steps", "10", "--out", out, "--json"];
  const running = startTrifold(args, environment);
  await running.said(/1\/10 steps/);
  running.process.kill("SIGTERM");
  const { status, stdout, stderr } = await running.finished;
  // A program that lets the second step end has a status of its own; the signal's death means that it did not.
  t.same({ status, signal: running.process.signalCode }, { status: null, signal: "SIGTERM" });
  t.notMatch(stderr, /2\/10 steps/);
  t.match(JSON.parse(stdout), { interrupted: true, steps: 1, adapter: out });
  t.same((await loadAdapter(out)).labels, ["land", "sea"]);
});

t.test("SIGTERM in the middle of a round has a device say goodbye and leave", async (t) => {
  const world = { folder, modelFolder, cacheFolder };
  // Hours of steps: a device that finished them would not end within this test.
  const training = { rounds: 1, localSteps: 2000, batchSize: 16, sequenceLength: 128 };
  const task = await writeTask(world, "endless", { training });
  const broker = await startBroker({ log: () => {} });
  t.teardown(() => broker.close());
  const ending = new AbortController();
  const run = join(folder, "run");
  const place = { broker: broker.url, federation: "main" };
  const told = { signal: ending.signal, onEvent: () => {}, log: () => {} };
  const coordinator = { task, run, ...place, threads: 1, cacheFolder, ...told };
  const coordinating = t.rejects(startCoordinator(coordinator), { message: "enough" });
  const files = await writeDevice(world, { id: "a" }, { task, run });
  const flags = { ...place, id: "a", model: modelFolder, ...files };
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  const device = startTrifold(["device", ...args], environment);
  await device.said(/round 1: full/);
  device.process.kill("SIGTERM");
  const { status, stderr } = await device.finished;
  // Before its first step has begun it may still have a status of its own.
  const end = device.process.signalCode ?? status;
  t.ok(end === "SIGTERM" || end === 130, `${end}`);
  t.match(stderr, /\ninterrupted\n$/);
  t.notMatch(stderr, /failed/);
  ending.abort(new Error("enough"));
  await coordinating;
  // Its own word, not the broker's: that would be "lost".
  t.equal(await retainedState(broker.url, "a"), "offline");
});

/** What a device's status says to whoever comes now; only the coordinator may read it. */
async function retainedState(url: string, deviceId: string): Promise<string> {
  const transport = await connectMqtt({ url, clientId: coordinatorId, log: () => {} });
  try {
    return await new Promise((resolve, reject) => {
      const topic = topicsOf("main").device(deviceId, "status");
      const read = (bytes: Uint8Array) => JSON.parse(Buffer.from(bytes).toString()).state;
      transport.subscribe(topic, ({ bytes }) => resolve(read(bytes))).catch(reject);
    });
  } finally {
    await transport.close();
  }
}
