// What `full`, `kd` and `split` compute, alone and in one federation, over a link in one process.
import { isDeepStrictEqual } from "node:util";
import t, { type Test } from "tap";
import {
  batchesOf,
  batchShape,
  decodeTensor,
  encodeTensor,
  foldRound,
  initialOf,
  type KnowledgeReport,
  modelSpec,
  rateOf,
  roundBatches,
} from "../../protocols/index.ts";
import {
  type Float32Tensor,
  float32,
  loadPredictor,
  loadStep,
  type Parameters,
  predictAll,
  randomStream,
  train,
} from "../../runtime/index.ts";
import { openFederation, type Round, type ToyDevice } from "./loopback.ts";
import { openToy, type TaskInput, type Toy, toyExamples } from "./toy.ts";

const a: ToyDevice = { id: "a", protocol: "full", train: toyExamples("a", 13) };
const b: ToyDevice = { id: "b", protocol: "full", train: toyExamples("b", 3) };
const c: ToyDevice = { id: "c", protocol: "full", train: toyExamples("c", 21) };
const cut = (device: ToyDevice, cutLayer: number): ToyDevice => ({
  ...device,
  protocol: "split",
  cutLayer,
});
const asKd = (device: ToyDevice): ToyDevice => ({ ...device, protocol: "kd" });

/** The rounds of a federation that is opened for them. */
async function play(
  toy: Toy,
  settings: TaskInput,
  devices: readonly ToyDevice[],
  { rounds = 2, order }: { rounds?: number; order?: readonly string[] } = {},
): Promise<Round[]> {
  const federation = await openFederation(toy, toy.task(settings), devices);
  const played: Round[] = [];
  let global = federation.start;
  for (let i = 0; i < rounds; i++) {
    const round = await federation.round(global, order ? { order } : {});
    played.push(round);
    global = round.global;
  }
  await federation.close();
  return played;
}

const parametersAfter = (rounds: readonly Round[]): Parameters =>
  (rounds.at(-1) as Round).global.parameters;

t.test(
  "any subset of full devices may be split, the global model stays bit-identical",
  async (t) => {
    const toy = await openToy(t);
    const results: Parameters[] = [];
    // Gradients here have norms of 0.3 to 3: the first bound clips every step, the second none.
    for (const [maxGradientNorm, cuts, dropout] of [
      [0.05, [1, 2, 3], 0],
      [1e6, [3, 1, 1], 0],
      [0.05, [2, 3, 1], 0.3],
    ] as const) {
      const adapter = { rank: 2, alpha: 4, targets: ["c_attn", "mlp.c_fc"], dropout };
      const settings = { adapter, training: { maxGradientNorm, weightDecay: 0.01 } };
      const all = [a, b, c];
      const whole = parametersAfter(await play(toy, settings, all));
      results.push(whole);
      for (let subset = 1; subset < 8; subset++) {
        const devices = all.map((device, i) =>
          subset & (1 << i) ? cut(device, cuts[i] as number) : device,
        );
        const mixed = parametersAfter(await play(toy, settings, devices));
        const names = devices.map(({ protocol, cutLayer = "" }) => `${protocol} ${cutLayer}`);
        const setting = `norm ${maxGradientNorm}, dropout ${dropout}`;
        t.ok(isDeepStrictEqual(mixed, whole), `${names} under ${setting}`);
      }
    }
    t.notOk(isDeepStrictEqual(results[0], results[1]), "clipping made a difference");
    t.notOk(isDeepStrictEqual(results[0], results[2]), "dropout made a difference");
  },
);

t.test("a Llama is federated as a GPT-2 is, split or whole", async (t) => {
  const toy = await openToy(t, { family: "llama" });
  const whole = await play(toy, {}, [a, b, asKd(c)]);
  const mixed = await play(toy, {}, [cut(a, 1), cut(b, 3), asKd(c)]);
  t.ok(isDeepStrictEqual(parametersAfter(mixed), parametersAfter(whole)));
  const started = initialOf(toy.task());
  t.notOk(isDeepStrictEqual(parametersAfter(whole), started), "something was learned");
  t.ok(started.has("base_model.model.model.layers.3.self_attn.v_proj.lora_B.weight"));
});

t.test("devices at once give what they give one after another", async (t) => {
  const toy = await openToy(t);
  const devices = [cut(a, 2), asKd(b), c, cut({ ...b, id: "d" }, 2), asKd({ ...a, id: "e" })];
  const adapter = { rank: 2, alpha: 4, targets: ["all-linear"], dropout: 0.1, rsLora: true };
  const atOnce = await play(toy, { adapter }, devices);
  for (const order of [
    ["a", "b", "c", "d", "e"],
    ["e", "d", "c", "b", "a"],
  ]) {
    const inTurn = await play(toy, { adapter }, devices, { order });
    t.ok(isDeepStrictEqual(atOnce.map(contentOf), inTurn.map(contentOf)), `in the order ${order}`);
  }
});

/** Global model and messages; the map of devices keeps the order in which they ended. */
const contentOf = ({ global, devices }: Round) => [global, [...devices].sort()];

t.test("one full device is centralised training, within one unit in the last place", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ training: { localSteps: 6, weightDecay: 0.01 } });
  const federation = await openFederation(toy, task, [c]);
  const round = await federation.round(federation.start);
  await federation.close();
  const step = await loadStep(toy.engine, modelSpec(task, toy.model));
  const order = roundBatches(task, "c", 1, c.train.length);
  const central = await train({
    step,
    initial: federation.start.parameters,
    batches: [...batchesOf(task, c.train, order)].map(({ feeds }) => feeds),
    rateAt: rateOf(task, { round: 1, attempt: 1, lane: 1, globalStep: 0, acceptedLane: 0 }),
    maxGradientNorm: task.training.maxGradientNorm,
    weightDecay: task.training.weightDecay,
  });
  await step.close();
  let most = 0;
  for (const [name, { data }] of central.parameters) {
    const before = federation.start.parameters.get(name) as Float32Tensor;
    const actual = round.global.parameters.get(name) as Float32Tensor;
    data.forEach((value, i) => {
      // theta + (theta_1 - theta) rounds twice, each time by half a unit of the larger of the two.
      const unit = ulp(Math.max(Math.abs(value), Math.abs(before.data[i] as number)));
      most = Math.max(most, Math.abs((actual.data[i] as number) - value) / unit);
    });
  }
  t.ok(most <= 1, `${most} units`);
  t.equal(round.devices.get("c")?.report.loss, central.meanLoss);
});

/** Distance of a float32 to the next larger one. */
const ulp = (value: number) => 2 ** Math.max(Math.floor(Math.log2(value)) - 23, -149);

t.test("one full, one split and one kd device learn together, whatever the wire", async (t) => {
  const toy = await openToy(t);
  const score = await scorer(t, toy);
  const examples = (id: string) => ({ id, train: toyExamples(id, 100) });
  const devices: ToyDevice[] = [
    { ...examples("a"), protocol: "full" },
    { ...examples("b"), protocol: "split", cutLayer: 2, holdOut: toyExamples("hold-out", 30) },
    { ...examples("c"), protocol: "kd" },
  ];
  for (const encoding of ["float32", "bf16", "int8"]) {
    const wire = {
      full: { encoding },
      kd: { encoding },
      split: { activations: encoding, gradients: encoding },
    };
    const settings = { training: { localSteps: 25 }, ...wire };
    const rounds = await play(toy, settings, devices, { rounds: 3 });
    const accuracy = await score(parametersAfter(rounds));
    // Four of five tokens tell the class: guessing gives 0.5 +- 0.035 on these 200 texts, a good model 0.9.
    t.ok(accuracy > 0.75, `${encoding}: the global model reaches ${accuracy}`);
    const losses = rounds.map(({ devices }) =>
      [...devices.values()].map(({ report }) => report.loss),
    );
    for (const i of [0, 1, 2]) {
      const [first, , last] = losses.map((loss) => loss[i] as number) as [number, number, number];
      t.ok(last < first, `${encoding}: device ${i} from loss ${first} to ${last}`);
    }
    const own = rounds[2]?.devices.get("b")?.report;
    t.ok((own?.accuracy ?? 0) > 0.7, `the split device scores ${own?.accuracy} on its hold-out`);
    t.match(own, { examples: 100, examplesSeen: 100, steps: 25 });
    t.equal(rounds[2]?.devices.get("a")?.report.accuracy, undefined, "no hold-out, no accuracy");
  }
});

/** Accuracy of global parameters on texts that no device has. */
async function scorer(t: Test, toy: Toy): Promise<(parameters: Parameters) => Promise<number>> {
  const task = toy.task();
  const predictor = await loadPredictor(toy.engine, modelSpec(task, toy.model));
  t.teardown(() => predictor.close());
  const test = toyExamples("test", 200);
  return async (parameters) => {
    const logits = await predictAll(predictor, parameters, test, batchShape(task));
    const right = test.filter(({ label }, i) => {
      const [low = 0, high = 0] = logits.subarray(2 * i, 2 * i + 2);
      return (high > low ? 1 : 0) === label;
    });
    return right.length / test.length;
  };
}

t.test("behind a narrow wire front and tail start from what a whole device decodes", async (t) => {
  const toy = await openToy(t);
  for (const encoding of ["bf16", "int8", "int4", "topk"] as const) {
    // One step: what differs behind it can only come from its start.
    const task = toy.task({ training: { localSteps: 1 }, full: { encoding } });
    const random = randomStream("moved", encoding);
    const parameters = new Map(
      [...initialOf(task)].map(([name, { shape, data }]) => [
        name,
        float32(
          shape,
          data.map((value) => value + 0.01 * random.normal()),
        ),
      ]),
    );
    const updateOf = async (device: ToyDevice) => {
      const federation = await openFederation(toy, task, [device]);
      const result = (await federation.round({ round: 1, parameters })).devices.get("c")?.result;
      await federation.close();
      return result?.kind === "contribution" ? result.update : new Map<string, Float32Tensor>();
    };
    const whole = await updateOf(c);
    const cutInTwo = await updateOf(cut(c, 2));
    t.equal(whole.size, 17, "two factors of two layers in each of four blocks, and the head");
    for (const [name, { shape, data }] of whole) {
      // The tail's update stays at the coordinator in full precision; the wire would make this of it.
      const tail = cutInTwo.get(name) as Float32Tensor;
      const isTail = /h\.[23]\.|score/.test(name);
      const sent = isTail ? decodeTensor(encodeTensor(tail, encoding)) : tail;
      t.ok(isDeepStrictEqual(sent, float32(shape, data)), `${encoding} ${name}`);
    }
  }
});

t.test("knowledge reaches the protocol that gathered it and no other", async (t) => {
  const toy = await openToy(t);
  const task = toy.task();
  const start = { round: 0, parameters: initialOf(task) };
  const logits = { examples: 0, classes: 2 } as unknown as KnowledgeReport["logits"];
  const report = (deviceId: string, protocol: string): KnowledgeReport => {
    return { kind: "knowledge", protocol, deviceId, weight: 1, logits };
  };
  const seen: string[] = [];
  const server = (name: string) => {
    const refine = async (reports: readonly KnowledgeReport[]) => {
      seen.push(`${name}: ${reports.map(({ deviceId }) => deviceId)}`);
      return undefined;
    };
    return [name, { refine }] as const;
  };
  const results = [report("c", "gossip"), report("b", "kd"), report("a", "gossip")];
  const servers = new Map([server("gossip"), server("kd")]);
  const next = await foldRound(task, start, { results, servers });
  t.same(seen, ["gossip: a,c", "kd: b"]);
  t.ok(isDeepStrictEqual(next.parameters, start.parameters), "it taught nothing");
});
