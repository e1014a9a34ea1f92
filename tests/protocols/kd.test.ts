// What `kd` adds: logits that travel, a teacher of weighted voices, and a local model that a device keeps.
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import { stageSections } from "../../protocols/client-memory.ts";
import { rememberGlobal } from "../../protocols/global-model.ts";
import {
  batchShape,
  initialOf,
  modelSpec,
  type Payload,
  type RefinementFigures,
  rowsInMemory,
} from "../../protocols/index.ts";
import { kd } from "../../protocols/kd/index.ts";
import { unpackLogits } from "../../protocols/kd/logits.ts";
import { keepCounts, rankRow, type SparseLogits } from "../../protocols/kd/sparse-logits.ts";
import { endOf, startOf } from "../../protocols/kd/start.ts";
import { marked } from "../../protocols/model-mark.ts";
import {
  float32,
  loadPredictor,
  type Parameters,
  predictAll,
  randomStream,
} from "../../runtime/index.ts";
import { openFederation, type ToyDevice } from "./loopback.ts";
import { openToy, type TaskInput, toyExamples } from "./toy.ts";

t.test("bytes depend on texts and kept logits, not on the adapter's size", async (t) => {
  const toy = await openToy(t, { labels: 10 });
  const bytesOf = async (rank: number, protocol: "full" | "kd", labels = 10) => {
    const settings: TaskInput = {
      adapter: { rank, alpha: 4, targets: ["c_attn"] },
      kd: { topK: 3, encoding: "float32" },
    };
    const device: ToyDevice = { id: "a", protocol, train: toyExamples("a", 20, labels) };
    const federation = await openFederation(toy, toy.task(settings), [device]);
    const first = await federation.round(federation.start);
    const { devices } = await federation.round(first.global);
    await federation.close();
    const { ups = [], downs = [] } = devices.get("a") ?? {};
    return [ups, downs].map((messages) => messages.map(bodyBytes).reduce((sum, n) => sum + n));
  };
  // 18 public texts: 3 kept float32 and one for the rest; which 3 of 10 classes takes 3 lower bits and 3 + 4 upper ones,
  // as many as a bitmap.
  const expected = Math.ceil((18 * (4 * 32 + 10)) / 8);
  t.same(await bytesOf(2, "kd"), [expected, expected]);
  t.same(await bytesOf(8, "kd"), [expected, expected]);
  t.not((await bytesOf(2, "full"))[0], (await bytesOf(8, "full"))[0], "full's do");
});

function bodyBytes({ tensors, blobs = new Map() }: Payload): number {
  const parts = [...[...tensors.values()].map(({ bytes }) => bytes), ...blobs.values()];
  return parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

t.test("a refinement nears the teacher and cannot be pulled away by a small board", async (t) => {
  const toy = await openToy(t);
  const { engine, model, publicSet } = toy;
  const task = toy.task();
  const predictor = await loadPredictor(engine, modelSpec(task, model));
  const server = await kd.createServer({
    ...{ task, engine, model, publicSet, rowsOf: rowsInMemory },
    after: () => () => {},
    log: () => {},
  });
  t.teardown(() => server.close());
  const distributions = async (parameters: Parameters) => {
    const logits = await predictAll(predictor, parameters, publicSet, batchShape(task));
    return Array.from({ length: 18 }, (_, i) => {
      const [x = 0, y = 0] = logits.subarray(2 * i, 2 * i + 2);
      return 1 / (1 + Math.exp((x - y) / task.kd.temperature)); // of the second class
    });
  };
  const start = initialOf(task);
  const own = await distributions(start);
  const opinion = 1 / (1 + Math.exp(-3));
  const logits = allOf(
    Float32Array.from({ length: 36 }, (_, i) => (i % 2 ? 3 : -3)),
    2,
  );
  const report = { kind: "knowledge", protocol: "kd", deviceId: "c", weight: 1, logits } as const;
  const moves: number[] = [];
  for (const contributorWeight of [0, 1, 10, 1000]) {
    const recorded: RefinementFigures[] = [];
    const record = (figures: RefinementFigures) => recorded.push(figures);
    const input = { round: 1, global: { round: 1, parameters: start }, contributorWeight, record };
    const refined = (await server.refine?.([report], input)) ?? start;
    const reached = await distributions(refined);
    const teacher = own.map((p) => (contributorWeight * p + opinion) / (contributorWeight + 1));
    const [before, after] = [divergence(teacher, own), divergence(teacher, reached)];
    t.ok(after < before, `weight ${contributorWeight}: from ${before} to ${after} nats`);
    // Logits are float32: 6e-8 of values below 8 in each of some dozen terms.
    const [figures] = recorded;
    t.ok(Math.abs((figures?.divergenceBefore ?? 0) - before) < 1e-5, "the distance is recorded");
    t.ok(Math.abs((figures?.divergenceAfter ?? 0) - after) < 1e-5);
    const agreement = (student: readonly number[]) =>
      student.filter((p, i) => p > 0.5 === (teacher[i] as number) > 0.5).length / 18;
    t.equal(figures?.agreementBefore, agreement(own), "and how often both say the same");
    t.equal(figures?.agreementAfter, agreement(reached));
    moves.push(Math.max(...reached.map((p, i) => Math.abs(p - (own[i] as number)))));
  }
  t.ok((moves[0] ?? 0) > 0.03, `alone, the board moves probabilities by up to ${moves[0]}`);
  // The teacher is at most 1/1001 away; nearer than that, a student is at most about twice as far from its start.
  t.ok((moves[3] ?? 1) < 2e-3, `against 1000 examples by up to ${moves[3]}`);
  t.equal(
    await server.refine?.([], {
      round: 1,
      global: { round: 1, parameters: start },
      contributorWeight: 1,
    }),
    undefined,
  );
  await predictor.close();
});

/** Logits [rows, classes] of which none was dropped. */
function allOf(logits: Float32Array, classes: number): SparseLogits {
  const rows = Array.from({ length: logits.length / classes }, (_, row) =>
    rankRow(logits.subarray(row * classes, (row + 1) * classes), classes, 1),
  );
  return keepCounts(
    { classes, temperature: 1, rows },
    rows.map(() => classes),
  );
}

/** Mean Kullback-Leibler divergence of two-class distributions, in nats. */
function divergence(teacher: readonly number[], student: readonly number[]): number {
  const term = (p: number, q: number) => p * Math.log(p / q);
  const terms = teacher.map((p, i) => {
    const q = student[i] as number;
    return term(p, q) + term(1 - p, 1 - q);
  });
  return terms.reduce((sum, value) => sum + value, 0) / teacher.length;
}

t.test("a device learns from the coordinator's logits before its own data", async (t) => {
  const toy = await openToy(t);
  const distanceAfter = async (distillationSteps: number) => {
    // Private training stands still at this rate, so only the distillation is seen.
    const task = toy.task({
      training: { learningRate: 1e-12 },
      kd: { encoding: "float32", learningRate: 1e-2, distillationSteps },
    });
    const device: ToyDevice = { id: "a", protocol: "kd", train: toyExamples("a", 20) };
    const federation = await openFederation(toy, task, [device]);
    const random = randomStream("another head");
    const parameters = new Map(
      [...initialOf(task)].map(([name, tensor]) => [
        name,
        name.includes("score")
          ? { ...tensor, data: tensor.data.map((value) => value + 0.1 * random.normal()) }
          : tensor,
      ]),
    );
    const { devices } = await federation.round({ round: 1, parameters });
    await federation.close();
    const { ups = [], downs = [] } = devices.get("a") ?? {};
    const [told, said] = [downs[0], ups[0]].map(
      (payload) =>
        unpackLogits(kd.parseUp(withCounts(payload as Payload)), { rows: 18, classes: 2 }).values,
    ) as [Float32Array, Float32Array];
    // Softmax sees the difference of the two classes only.
    const margin = (logits: Float32Array, i: number) =>
      (logits[2 * i + 1] as number) - (logits[2 * i] as number);
    return Array.from({ length: 18 }, (_, i) => Math.abs(margin(said, i) - margin(told, i))).reduce(
      (sum, value) => sum + value,
    );
  };
  const [untaught, taught] = [await distanceAfter(0), await distanceAfter(10)];
  t.ok(
    taught < 0.7 * untaught,
    `margins differ by ${untaught} before in all and by ${taught} after`,
  );
});

/** The coordinator's message lacks the counts of a device's. */
function withCounts(payload: Payload): Payload {
  return { ...payload, fields: { examples: 1, steps: 1, ...payload.fields } };
}

t.test("a round that is not accepted leaves the device's model as it was", async (t) => {
  const toy = await openToy(t);
  const device: ToyDevice = { id: "a", protocol: "kd", train: toyExamples("a", 20) };
  const federation = await openFederation(toy, toy.task(), [device]);
  t.teardown(() => federation.close());
  const refused = await federation.round(federation.start, { accepted: false });
  t.equal(await federation.stateOf("a"), undefined, "nothing is committed");
  const first = await federation.round(federation.start);
  t.ok(isDeepStrictEqual(refused.devices, first.devices), "the next attempt is the same again");
  const committed = await federation.stateOf("a");
  t.ok(committed, "an accepted round is");
  await federation.round(first.global, { accepted: false });
  t.equal(await federation.stateOf("a"), committed, "a later one that fails changes nothing");
  const second = await federation.round(first.global);
  t.ok(
    (second.devices.get("a")?.report.loss ?? 1) < (first.devices.get("a")?.report.loss ?? 0),
    "the second round goes on from the first",
  );
});

t.test(
  "a device that comes from full starts from the last theta, then from its own model",
  async (t) => {
    const task = (await openToy(t)).task();
    const initial = initialOf(task);
    const shifted = (by: number) =>
      new Map(
        [...initial].map(([name, { shape, data }]) => [
          name,
          float32(
            shape,
            data.map((value) => value + by),
          ),
        ]),
      );
    let committed: Parameters | undefined;
    const state = {
      read: async () => committed,
      stage: async (tensors: Parameters) => {
        committed = tensors;
      },
    };
    t.same(await startOf(task, state), initial, "new devices start as the coordinator does");
    await stageSections(state, endOf(task, shifted(1)));
    t.same(await startOf(task, state), shifted(1));
    // A full round keeps what it decoded, with its round.
    await stageSections(state, rememberGlobal(task, shifted(2), 2));
    t.same(await startOf(task, state), shifted(2), "what was decoded since is newer");
    await stageSections(state, endOf(task, shifted(3)));
    t.same(await startOf(task, state), shifted(3), "and older after the next kd round");
    const front = [...shifted(4)].slice(0, 1);
    await stageSections(state, { theta: marked(task, new Map(front)) });
    t.same(await startOf(task, state), shifted(3), "a front alone is no model");
    await stageSections(state, rememberGlobal(task, shifted(5), 3));
    const manifest = { ...task.manifest, modelSha256: "0".repeat(64) };
    const changed = { ...task, manifest };
    t.same(
      await startOf(changed, state),
      initial,
      "what is of another model of the same shapes is none",
    );
    await stageSections(state, endOf(changed, shifted(6)));
    t.same(await startOf(changed, state), shifted(6));
  },
);

t.test("a full device remembers theta for kd whatever its wire and method", async (t) => {
  const toy = await openToy(t);
  for (const settings of [{}, { full: { encoding: "int8" }, aggregation: { method: "ffa" } }]) {
    const task = toy.task(settings);
    const theta = new Map(
      [...initialOf(task)].map(([name, { shape, data }]) => [
        name,
        // With ffa factor A stays at its start, and no memory holds it.
        name.includes("lora_A") && task.aggregation.method === "ffa"
          ? float32(shape, data)
          : float32(
              shape,
              data.map((value) => value + 1),
            ),
      ]),
    );
    let committed: Parameters | undefined;
    const state = {
      read: async () => committed,
      stage: async (tensors: Parameters) => {
        committed = tensors;
      },
    };
    await stageSections(state, rememberGlobal(task, theta, 2));
    t.same(await startOf(task, state), theta, task.aggregation.method);
  }
  const without = toy.task({ selection: { order: ["full", "split"] } });
  t.same(
    rememberGlobal(without, initialOf(without), 2),
    {},
    "float32 travels whole, and nobody is given kd",
  );
});
