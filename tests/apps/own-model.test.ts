// A device that has a model of its own and not the task's: its configuration, and a federation over a broker.
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { readDeviceConfig } from "../../apps/device/config.ts";
import { packageRoot } from "../../apps/package-root.ts";
import { type LlamaConfig, randomTensors, saveModelFolder } from "../../runtime/index.ts";
import { federate, makeWorld, writeTask } from "./small-federation.ts";

const llama: LlamaConfig = {
  family: "llama",
  vocabSize: 2048,
  positions: 32,
  hiddenSize: 16,
  layers: 2,
  heads: 2,
  innerSize: 32,
  padTokenId: 0,
  keyValueHeads: 1,
  headSize: 8,
  rmsNormEpsilon: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  attentionBias: false,
  outputBias: false,
  feedForwardBias: false,
  queryKeyNorm: false,
  tiedEmbedding: true,
};
const adapter = { rank: 2, alpha: 4, targets: ["q_proj", "v_proj"] };

t.test("a small Llama takes part as kd beside a device with the task's model", async (t) => {
  const folder = t.testdir();
  const world = await makeWorld(folder);
  const model = join(folder, "own");
  await saveModelFolder(model, llama, randomTensors(llama, 2));
  const tokenizer = join(packageRoot(), "models", "sotu-gpt2", "tokenizer.json");
  await copyFile(tokenizer, join(model, "tokenizer.json"));
  const task = await writeTask(world, "own", { cohort: { minimumDevices: 2 } });
  const devices = [{ id: "a" }, { id: "b", ownModel: { model, adapter } }];
  const { events, result, records } = await federate(world, {
    task,
    run: join(folder, "run"),
    devices,
  });
  const assigned = events.filter((event) => event.kind === "assigned");
  t.same(
    assigned.map(({ deviceId, selection }) => [deviceId, selection.assignment?.protocol]).sort(),
    [
      ["a", "full"],
      ["b", "kd"],
    ],
  );
  const reason = assigned.find(({ deviceId }) => deviceId === "b")?.selection.assignment?.reason;
  t.match(reason, /the device does not have the task's model/);
  t.equal(result.rounds, 2);
  const reports = records.filter((record) => record.kind === "report");
  t.equal(reports.filter(({ deviceId }) => deviceId === "b").length, 2, "it trains both rounds");
});

t.test("a configuration names the folder beside itself", async (t) => {
  const yaml = "kd:\n  model: own\n  adapter: { rank: 2, alpha: 4, targets: [q_proj] }\n";
  const folder = t.testdir({ "device.yaml": yaml, "wrong.yaml": "kd:\n  model: own\n  size: 3\n" });
  const { ownModel } = await readDeviceConfig(join(folder, "device.yaml"));
  t.match(ownModel, { folder: join(folder, "own"), adapter: { rank: 2, targets: ["q_proj"] } });
  await t.rejects(readDeviceConfig(join(folder, "wrong.yaml")), { code: "DEVICE_CONFIG_INVALID" });
});
