// What kd devices may be: language models, and models of another size or family than the task's.
import t from "tap";
import { boardProfile } from "../../devices/index.ts";
import {
  type AnyProtocol,
  assignDevice,
  batchShape,
  builtInProtocols,
  initialOf,
  modelSpec,
  type OwnModel,
  ownModelProblem,
  type RefinementFigures,
  rowsInMemory,
  type Task,
  withOwnModel,
} from "../../protocols/index.ts";
import { kd } from "../../protocols/kd/index.ts";
import { logitsOf } from "../../protocols/kd/opinion.ts";
import { publicRows } from "../../protocols/kd/public-rows.ts";
import { keepCounts, rankRow } from "../../protocols/kd/sparse-logits.ts";
import { loadPredictor, makeBatch, randomStream } from "../../runtime/index.ts";
import { openFederation, type ToyDevice } from "./loopback.ts";
import { openToy, type Toy, toyExamples } from "./toy.ts";

const other = await openToy(t, { family: "llama" });

const lm = (settings: object = {}) => ({
  head: { kind: "lm" },
  adapter: { rank: 2, alpha: 4, targets: ["c_attn"] },
  ...settings,
});

t.test("a language model's logits travel for every token that has a next one", async (t) => {
  const toy = await openToy(t);
  const task = toy.task(lm({ kd: { topK: "adaptive", keptMass: 0.5, encoding: "int8" } }));
  const devices: ToyDevice[] = ["a", "b"].map((id) => ({
    id,
    protocol: "kd",
    train: toyExamples(id, 20),
  }));
  const federation = await openFederation(toy, task, devices);
  t.teardown(() => federation.close());
  const first = await federation.round(federation.start);
  const second = await federation.round(first.global);
  const rows = toy.publicSet.reduce((sum, { tokens }) => sum + Math.min(tokens.length, 12) - 1, 0);
  for (const { ups, downs } of second.devices.values()) {
    for (const { fields, blobs } of [...ups, ...downs]) {
      t.match(fields, { rows, classes: 64, isCounted: true, encoding: "int8" });
      const bytes = blobs?.get("logits")?.length ?? 0;
      t.ok(bytes > rows && bytes < 4 * rows * 64 * 0.4, `${bytes} bytes of ${4 * rows * 64}`);
    }
  }
  t.notSame(
    second.global.parameters,
    first.global.parameters,
    "the devices teach the global model",
  );
});

t.test("a language model nears its teacher position by position", async (t) => {
  const toy = await openToy(t);
  const { engine, model, publicSet } = toy;
  const task = toy.task(
    lm({ kd: { topK: 64, encoding: "float32", temperature: 2, distillationSteps: 4 } }),
  );
  const server = await kd.createServer({
    ...{ task, engine, model, publicSet, rowsOf: rowsInMemory },
    after: () => () => {},
    log: () => {},
  });
  t.teardown(() => server.close());
  const start = initialOf(task);
  const random = randomStream("opinions");
  const said: Float32Array[] = [];
  // One text after the other through the same graph, and the formula by hand.
  const predictor = await loadPredictor(engine, modelSpec(task, model));
  let expected = 0;
  for (const example of publicSet) {
    const { data } = await predictor.run(start, makeBatch([example], batchShape(task)).feeds);
    for (let at = 0; at + 1 < Math.min(example.tokens.length, 12); at++) {
      const opinion = Float32Array.from({ length: 64 }, () => random.normal());
      said.push(opinion);
      const [p, q] = [opinion, data.subarray(64 * at, 64 * at + 64)].map(softened);
      expected += (p ?? []).reduce((sum, x, i) => sum + x * Math.log(x / (q?.[i] ?? 1)), 0);
    }
  }
  await predictor.close();
  const rows = said.map((row) => rankRow(row, 64, 2));
  const logits = keepCounts(
    { classes: 64, temperature: 2, rows },
    rows.map(() => 64),
  );
  const figures: RefinementFigures[] = [];
  const refined = await server.refine?.(
    [{ kind: "knowledge", protocol: "kd", deviceId: "a", weight: 1, logits }],
    {
      round: 1,
      global: { round: 1, parameters: start },
      contributorWeight: 0,
      record: (reached) => figures.push(reached),
    },
  );
  const [{ divergenceBefore = 0, divergenceAfter = 1 } = {}] = figures;
  // float32 logits: 1e-6 of differences below 20 in the mean.
  t.ok(Math.abs(divergenceBefore - expected / said.length) < 1e-5, `${divergenceBefore} nats`);
  t.ok(refined && divergenceAfter < divergenceBefore, `then ${divergenceAfter}`);
});

function softened(logits: Float32Array): number[] {
  const weights = [...logits].map((value) => Math.exp(value / 2));
  const total = weights.reduce((sum, weight) => sum + weight);
  return weights.map((weight) => weight / total);
}

t.test("logits that would take too much memory are computed again, to the same bits", async (t) => {
  const toy = await openToy(t);
  const task = toy.task(lm());
  const rows = publicRows(task, toy.publicSet);
  const predictor = await loadPredictor(toy.engine, modelSpec(task, toy.model));
  const options = { predictor, parameters: initialOf(task) };
  const kept = await logitsOf(task, rows, options);
  const again = await logitsOf(task, rows, { ...options, mostBytes: 1000 });
  t.equal(kept.flops(), 5 * predictor.flops, "18 texts are five batches of 4");
  t.equal(again.flops(), 0);
  for (const indices of [
    [0, 1, 2, 3],
    [9, 4],
  ]) {
    const length = indices.length * 12 * 64;
    t.same((await again.run(indices)).subarray(0, length), await kept.run(indices));
  }
  t.equal(again.flops(), 2 * predictor.flops);
  await predictor.close();
});

/** A Llama that a device of a GPT-2 task runs. */
function llamaOf(toy: Toy, settings: Partial<OwnModel> = {}): OwnModel {
  return {
    modelSha256: toy.model.sha256,
    tokenizerSha256: "1".repeat(64),
    config: toy.model.config,
    adapter: { rank: 3, alpha: 6, targets: ["q_proj", "v_proj"], dropout: 0, rsLora: false },
    ...settings,
  };
}

t.test("a Llama learns beside GPT-2 and its parameters stay with it", async (t) => {
  const toy = await openToy(t);
  const task = toy.task();
  const own = { facts: llamaOf(other), model: other.model };
  const devices: ToyDevice[] = [
    { id: "a", protocol: "full", train: toyExamples("a", 20) },
    { id: "b", protocol: "kd", train: toyExamples("b", 20), own },
  ];
  const federation = await openFederation(toy, task, devices);
  t.teardown(() => federation.close());
  const first = await federation.round(federation.start);
  const second = await federation.round(first.global);
  t.same([...second.global.parameters.keys()], [...initialOf(task).keys()], "the task's names");
  const state = await federation.stateOf("b");
  t.same(
    [...(state?.keys() ?? [])],
    [...initialOf(withOwnModel(task, own.facts)).keys(), "model"].map((name) => `local/${name}`),
  );
  const losses = [first, second].map(({ devices: all }) => all.get("b")?.report.loss ?? 0);
  t.ok((losses[1] ?? 1) < (losses[0] ?? 0), `its loss falls: ${losses}`);
  t.ok(JSON.stringify(second.devices.get("b")?.ups).indexOf("q_proj") < 0, "nothing of it travels");
});

t.test("the coordinator estimates kd on the device's own model", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ selection: { order: ["full", "kd"] } });
  const offer = (ownModel?: OwnModel, hasModel = true) => ({
    deviceId: "a",
    profile: boardProfile("pi-5"),
    budget: {},
    holdOut: 0,
    protocols: Object.fromEntries(builtInProtocols.map(({ name, version }) => [name, version])),
    ownModel,
    hasModel,
  });
  const choose = (ownModel?: OwnModel, hasModel = true) =>
    assignDevice(builtInProtocols, task, offer(ownModel, hasModel));
  const own = llamaOf(other);
  const costOf = (name: string, table: ReturnType<typeof choose>["table"]) =>
    table.find(({ candidate }) => candidate.protocol === name)?.candidate.cost;
  const { table, assignment } = choose(own);
  t.equal(assignment?.protocol, "full", "the task's order still decides");
  const estimate = (of: Task) => (kd as AnyProtocol).estimate(of, { holdOut: 0 });
  t.same(costOf("kd", table), estimate(withOwnModel(task, own)));
  t.notSame(costOf("kd", table), estimate(task));
  t.same(costOf("full", table), costOf("full", choose().table), "full runs the task's model");
  const without = choose(own, false);
  t.equal(without.assignment?.protocol, "kd");
  t.match(without.assignment?.reason, /full is refused: the device does not have the task's model/);
});

t.test("an own model that cannot serve the task is refused with the reason", async (t) => {
  const toy = await openToy(t);
  const task = toy.task();
  t.equal(
    ownModelProblem(task, llamaOf(other)),
    undefined,
    "another tokenizer reads the same texts",
  );
  t.match(ownModelProblem(toy.task(lm()), llamaOf(other)), /another tokenizer/);
  const same = { tokenizerSha256: task.manifest.tokenizerSha256 };
  t.equal(ownModelProblem(toy.task(lm()), llamaOf(other, same)), undefined);
  const padded = { ...other.model.config, vocabSize: 128 };
  t.match(
    ownModelProblem(toy.task(lm()), llamaOf(other, { ...same, config: padded })),
    /logits of 128 tokens, the task's of 64/,
  );
  const short = { ...other.model.config, positions: 8 };
  t.match(
    ownModelProblem(task, llamaOf(other, { config: short })),
    /8 positions, the task needs 12/,
  );
  const adapter = { ...llamaOf(other).adapter, targets: ["c_attn"] };
  t.match(ownModelProblem(task, llamaOf(other, { adapter })), /own model: .*c_attn/);
});
