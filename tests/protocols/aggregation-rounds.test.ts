// The settings of `aggregation` in whole rounds of devices: each changes the next theta and nothing else.
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import { openCheckpoints } from "../../apps/coordinator/checkpoints.ts";
import {
  applyUpdate,
  type Contribution,
  type GlobalModel,
  leadingRanks,
  serverStep,
  weightedMean,
} from "../../protocols/index.ts";
import { type Float32Tensor, float32, loraScale, type Parameters } from "../../runtime/index.ts";
import { openFederation, type Round, type ToyDevice } from "./loopback.ts";
import { apart, combine, type Matrix } from "./matrices.ts";
import { openToy, type Toy, toyExamples } from "./toy.ts";

const devices: readonly ToyDevice[] = ["a", "b", "c", "d", "e"].map((id, i) => ({
  id,
  protocol: "full",
  train: toyExamples(id, 5 + 4 * i),
}));
/** The same devices, two of them cut. */
const mixed = devices.map(
  (device, i): ToyDevice => (i % 3 === 1 ? { ...device, protocol: "split", cutLayer: 2 } : device),
);

type Aggregation = Readonly<Record<string, unknown>>;

async function play(
  toy: Toy,
  aggregation: Aggregation,
  who = devices,
): Promise<{ readonly start: GlobalModel; readonly rounds: readonly [Round, Round] }> {
  const adapter = { rank: 2, alpha: 4, targets: ["c_attn", "mlp.c_fc"] };
  const task = toy.task({ adapter, aggregation, full: { encoding: "float32" } });
  const federation = await openFederation(toy, task, who);
  const first = await federation.round(federation.start);
  const second = await federation.round(first.global);
  await federation.close();
  return { start: federation.start, rounds: [first, second] };
}

const contributionsOf = ({ devices }: Round): Contribution[] =>
  [...devices.values()].map(({ result }) => result as Contribution);

t.test("each setting changes what contributions become, for split devices alike", async (t) => {
  const toy = await openToy(t);
  const [plain] = (await play(toy, {})).rounds;
  for (const aggregation of [
    { method: "stack" },
    { combine: "median" },
    { combine: "trimmedMean" },
    { combine: "krum", byzantine: 1 },
    { maximumNorm: 0.01 },
    { optimizer: { rate: 0.5 } },
    { optimizer: { kind: "fedavgm" } },
    { optimizer: { kind: "fedadam" } },
    { optimizer: { kind: "fedyogi" } },
  ]) {
    const name = JSON.stringify(aggregation);
    const [first, second] = (await play(toy, aggregation)).rounds;
    t.same(contributionsOf(first), contributionsOf(plain), `${name}: devices do what they did`);
    // Momentum starts at zero, so its first step is the mean itself.
    const isPlain = isDeepStrictEqual(first.global.parameters, plain.global.parameters);
    t.equal(isPlain, name.includes("fedavgm"), name);
    const [, swapped] = (await play(toy, aggregation, mixed)).rounds;
    t.same(swapped.global.parameters, second.global.parameters, `${name}: bit for bit with split`);
  }
});

t.test("the server's optimizer goes on from the round before", async (t) => {
  const toy = await openToy(t);
  const { start, rounds } = await play(toy, { optimizer: { kind: "fedadam" } });
  const { optimizer } = toy.task({ aggregation: { optimizer: { kind: "fedadam" } } }).aggregation;
  let { parameters } = start;
  let state: Parameters = new Map();
  for (const round of rounds) {
    const step = serverStep(optimizer, weightedMean(contributionsOf(round)), state);
    ({ state } = step);
    parameters = applyUpdate(parameters, step.update);
    t.same(round.global.parameters, parameters);
    t.same(round.global.optimizer, state);
  }
});

t.test("a checkpoint keeps the state of the server's optimizer", async (t) => {
  const toy = await openToy(t);
  const [{ global }] = (await play(toy, { optimizer: { kind: "fedyogi" } })).rounds;
  const checkpoints = await openCheckpoints(join(t.testdir(), "run"));
  await checkpoints.save(global);
  const read = await checkpoints.read(1);
  t.same(new Map([...(read.optimizer ?? [])].sort()), global.optimizer);
});

t.test("stack's theta is the mean of the products but for what it reports", async (t) => {
  const toy = await openToy(t);
  const { start, rounds } = await play(toy, { method: "stack" });
  const scale = loraScale({ rank: 2, alpha: 4, targets: [] });
  let before = start.parameters;
  for (const round of rounds) {
    const { global } = round;
    const results = contributionsOf(round);
    const total = results.reduce((sum, { weight }) => sum + weight, 0);
    t.equal(global.truncation?.size, 8, "two layers in each of four blocks");
    for (const [module, error] of global.truncation ?? []) {
      const exact = combine(
        ...results.map(({ weight, update }) => {
          const after = applyUpdate(before, update);
          return [(scale * weight) / total, product(after, module)] as const;
        }),
      );
      const lost = apart(combine([scale, product(global.parameters, module)]), exact);
      // Both are rounded to float32.
      t.ok(Math.abs(lost - error) < 1e-5, `${module}: ${lost}, reported ${error}`);
    }
    before = global.parameters;
  }
});

t.test(
  "ffa leaves A at its start on every device and off the wire, and its mean is exact",
  async (t) => {
    const toy = await openToy(t);
    const isA = (name: string) => name.includes("lora_A");
    const aOf = (parameters: Parameters) => new Map([...parameters].filter(([name]) => isA(name)));
    const { start, rounds } = await play(toy, { method: "ffa" });
    let before = start.parameters;
    for (const round of rounds) {
      const results = contributionsOf(round);
      const total = results.reduce((sum, { weight }) => sum + weight, 0);
      const modules = [...before.keys()]
        .filter(isA)
        .map((name) => name.slice(0, -".lora_A.weight".length));
      for (const module of modules) {
        const exact = combine(
          ...results.map(({ weight, update }) => {
            return [weight / total, product(applyUpdate(before, update), module)] as const;
          }),
        );
        t.ok(apart(product(round.global.parameters, module), exact) < 1e-6, module);
      }
      before = round.global.parameters;
      t.same(aOf(before), aOf(start.parameters));
      for (const { ups, downs } of round.devices.values()) {
        t.notOk([...ups, ...downs].some(({ tensors }) => [...tensors.keys()].some(isA)));
      }
    }
    const [, swapped] = (await play(toy, { method: "ffa" }, mixed)).rounds;
    t.same(swapped.global.parameters, before, "bit for bit with split");
  },
);

t.test("with ffa A stays where it is through int8 changes and distillation, too", async (t) => {
  const toy = await openToy(t);
  const aggregation = { method: "ffa" };
  const task = toy.task({ aggregation, full: { encoding: "int8" }, kd: { learningRate: 1e-2 } });
  const [one, two, three] = devices as readonly [ToyDevice, ToyDevice, ToyDevice];
  const federation = await openFederation(toy, task, [
    one,
    { ...two, protocol: "split", cutLayer: 2 },
    { ...three, protocol: "kd" },
  ]);
  let global = federation.start;
  for (let round = 0; round < 3; round++) global = (await federation.round(global)).global;
  await federation.close();
  for (const [name, tensor] of federation.start.parameters) {
    t.equal(name.includes("lora_A"), isDeepStrictEqual(global.parameters.get(name), tensor), name);
  }
});

t.test(
  "a device of a lower rank trains and sends its ranks, the others are their holders' mean",
  async (t) => {
    const toy = await openToy(t);
    const ranked = devices.map((device, i) => ({ ...device, rank: i === 0 ? 1 : 2 }));
    const { start, rounds } = await play(toy, {}, ranked);
    const [round] = rounds;
    const [small, ...others] = contributionsOf(round);
    const total = others.reduce((sum, { weight }) => sum + weight, 0);
    for (const [name, { shape, data }] of round.global.parameters) {
      const own = small?.update.get(name)?.shape;
      if (name.includes("lora_A")) {
        t.same(own, [1, shape[1]]);
        const second = (tensor: Float32Tensor | undefined) => [
          ...(tensor?.data.subarray(shape[1]) ?? []),
        ];
        const expected = second(start.parameters.get(name)).map((value, i) => {
          let sum = 0;
          for (const { weight, update } of others)
            sum += weight * (second(update.get(name))[i] ?? 0);
          return Math.fround(value + Math.fround(sum / total));
        });
        t.same([...data.subarray(shape[1])], expected, name);
      } else if (name.includes("lora_B")) t.same(own, [shape[0], 1]);
      else t.same(own, shape);
    }
    const told = devices.map((device) => ({ ...device, rank: 2 }));
    const [, alike] = (await play(toy, {}, told)).rounds;
    const [, plain] = (await play(toy, {})).rounds;
    t.same(alike.global.parameters, plain.global.parameters, "equal ranks give the bits of none");
    const stacked = (await play(toy, { method: "stack" }, ranked)).rounds;
    t.equal(stacked[1].global.truncation?.size, 8);
  },
);

t.test(
  "a device of a lower rank computes the model of its leading ranks, at the same scale",
  async (t) => {
    const toy = await openToy(t);
    const examples = toyExamples("a", 9);
    const settings = { training: { localSteps: 1 }, full: { encoding: "float32" } };
    const wide = toy.task({ ...settings, adapter: { rank: 2, alpha: 4, targets: ["c_attn"] } });
    const narrow = toy.task({ ...settings, adapter: { rank: 1, alpha: 2, targets: ["c_attn"] } });
    const device: ToyDevice = { id: "a", protocol: "full", train: examples };
    const resultsOf = async (task: typeof wide, who: ToyDevice) => {
      const federation = await openFederation(toy, task, [who]);
      const wideStart = await openFederation(toy, wide, []);
      const parameters = leadingRanks(wideStart.start.parameters, task.adapter.rank);
      // Past its start, so that the parameters travel.
      const round = await federation.round({ round: 1, parameters });
      await federation.close();
      return contributionsOf(round)[0]?.update;
    };
    const leading = await resultsOf(wide, { ...device, rank: 1 });
    t.same(leading, await resultsOf(narrow, device));
  },
);

/** B A of a layer, [out, in]. */
function product(parameters: Parameters, module: string): Matrix {
  const factor = (name: "A" | "B"): Float32Tensor =>
    parameters.get(`${module}.lora_${name}.weight`) ?? float32([0, 0]);
  const [a, b] = [factor("A"), factor("B")];
  const [rank = 0, inSize = 0] = a.shape;
  return Array.from({ length: b.shape[0] ?? 0 }, (_, i) =>
    Array.from({ length: inSize }, (__, j) => {
      let sum = 0;
      for (let k = 0; k < rank; k++)
        sum += (b.data[i * rank + k] ?? 0) * (a.data[k * inSize + j] ?? 0);
      return sum;
    }),
  );
}
