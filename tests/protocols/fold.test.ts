// How a round's contributions become the next global model under `task.aggregation`, and what a checkpoint keeps of it.
import { join } from "node:path";
import t from "tap";
import { openCheckpoints } from "../../apps/coordinator/checkpoints.ts";
import {
  builtInProtocols,
  type Contribution,
  decodeAll,
  initialOf,
  serverStep,
  type Task,
  weightedMean,
} from "../../protocols/index.ts";
import { type Float32Tensor, loraScale, type Parameters } from "../../runtime/index.ts";
import { openFederation, type Round, type ToyDevice } from "./loopback.ts";
import { openToy, type TaskInput, type Toy, toyExamples } from "./toy.ts";

const whole: readonly ToyDevice[] = ["a", "b", "c"].map((id, i) => ({
  id,
  protocol: "full",
  train: toyExamples(id, [13, 5, 8][i] as number),
}));
const mixed = whole.map(
  (device, i): ToyDevice => (i === 1 ? device : { ...device, protocol: "split", cutLayer: i + 1 }),
);

async function play(
  toy: Toy,
  task: Task,
  devices: readonly ToyDevice[] = whole,
  count = 2,
): Promise<readonly Round[]> {
  const federation = await openFederation(toy, task, devices);
  const rounds: Round[] = [];
  for (let i = 0; i < count; i++) {
    rounds.push(await federation.round(rounds.at(-1)?.global ?? federation.start));
  }
  await federation.close();
  return rounds;
}

const float32Task = (toy: Toy, aggregation: object, settings: TaskInput = {}): Task =>
  toy.task({ aggregation, full: { encoding: "float32" }, ...settings });
const contributionsOf = ({ devices }: Round): readonly Contribution[] =>
  [...devices.values()].flatMap(({ result }) => (result.kind === "contribution" ? [result] : []));
const values = (tensors: Parameters | undefined) =>
  tensors && Object.fromEntries([...tensors].map(([name, { data }]) => [name, [...data]]));
const tensorOf = (tensors: Parameters, name: string) => tensors.get(name) as Float32Tensor;

t.test("the server's optimizer goes on from its last round", async (t) => {
  const toy = await openToy(t);
  for (const kind of ["fedavgm", "fedadam", "fedyogi"] as const) {
    const task = float32Task(toy, { optimizer: { kind } });
    const rounds = await play(toy, task);
    let before = initialOf(task);
    let state: Parameters = new Map();
    for (const round of rounds) {
      const step = serverStep(
        task.aggregation.optimizer,
        weightedMean(contributionsOf(round)),
        state,
      );
      for (const [name, { data }] of before) {
        const change = tensorOf(step.update, name).data;
        const expected = data.map((value, i) => value + (change[i] as number));
        t.same([...tensorOf(round.global.parameters, name).data], [...expected], `${kind} ${name}`);
      }
      t.same(values(round.global.optimizer), values(step.state));
      before = round.global.parameters;
      state = step.state;
    }
    t.ok(state.size > 0);
  }
});

t.test("split devices enter every aggregation as full ones do, bit for bit", async (t) => {
  const toy = await openToy(t);
  for (const aggregation of [
    { combine: "median" },
    { combine: "trimmedMean", maximumNorm: 0.01 },
    { optimizer: { kind: "fedadam" } },
    { method: "ffa" },
    { method: "stack" },
  ]) {
    const task = float32Task(toy, aggregation);
    const [one, other] = [await play(toy, task), await play(toy, task, mixed)];
    t.same(
      values(other[1]?.global.parameters),
      values(one[1]?.global.parameters),
      JSON.stringify(aggregation),
    );
  }
});

t.test("a median is not moved by one device's norm, and clipping holds it down", async (t) => {
  const toy = await openToy(t);
  const plain = await play(toy, float32Task(toy, {}), whole, 1);
  const clipped = await play(toy, float32Task(toy, { maximumNorm: 1e-3 }), whole, 1);
  const median = await play(toy, float32Task(toy, { combine: "median" }), whole, 1);
  const start = initialOf(toy.task());
  const norm = (rounds: readonly Round[]) => {
    const theta = rounds[0]?.global.parameters ?? start;
    const squares = [...start].flatMap(([name, { data }]) =>
      [...data].map((value, i) => ((tensorOf(theta, name).data[i] as number) - value) ** 2),
    );
    return Math.sqrt(squares.reduce((sum, square) => sum + square, 0));
  };
  // The mean of vectors within 1e-3 is within it; rounding of theta adds to that.
  t.ok(norm(clipped) < 1.01e-3 && norm(clipped) > 1e-4, `${norm(clipped)}`);
  t.ok(norm(plain) > 0.1);
  const name = "base_model.model.score.weight";
  const updates = contributionsOf(median[0] as Round).map(
    ({ update }) => tensorOf(update, name).data,
  );
  const from = tensorOf(start, name).data;
  for (const [i, value] of tensorOf(median[0]?.global.parameters ?? start, name).data.entries()) {
    const middle = updates.map((data) => data[i] as number).sort((a, b) => a - b)[1] as number;
    t.equal(value, Math.fround((from[i] as number) + middle));
  }
});

t.test("ffa trains, sends and averages no A, at both ends of full and split", async (t) => {
  const toy = await openToy(t);
  const kd: ToyDevice = { id: "d", protocol: "kd", train: toyExamples("d", 8) };
  for (const encoding of ["float32", "int8"] as const) {
    const task = toy.task({ aggregation: { method: "ffa" }, full: { encoding } });
    const start = initialOf(task);
    for (const { devices, global } of await play(toy, task, [...mixed, kd])) {
      for (const { id } of mixed) {
        const { ups = [], downs = [], result } = devices.get(id) ?? {};
        const update = result?.kind === "contribution" ? [...result.update.keys()] : [];
        const names = [...ups, ...downs].flatMap(({ tensors }) => [...tensors.keys()]);
        t.notMatch([...names, ...update].join(), /lora_A/, `${encoding} ${id}`);
        t.match(names.join(), /lora_B/);
      }
      for (const [name, { data }] of start) {
        const after = tensorOf(global.parameters, name).data;
        t.equal(
          after.every((value, i) => value === data[i]),
          name.includes("lora_A"),
          name,
        );
      }
    }
  }
});

t.test("ffa averages the products, which the mean of both factors does not", async (t) => {
  const toy = await openToy(t);
  const distance = async (method: string) => {
    const task = float32Task(toy, { method });
    const [round] = (await play(toy, task, whole, 1)) as [Round];
    let [largest, size] = [0, 0];
    for (const module of modulesOf(round.global.parameters)) {
      const expected = meanProduct(round, module, initialOf(task));
      const actual = productOf(round.global.parameters, module);
      expected.forEach((value, i) => {
        largest = Math.max(largest, Math.abs(value - (actual[i] as number)));
        size = Math.max(size, Math.abs(value));
      });
    }
    return largest / size;
  };
  // Float32 factors of float64 sums: 2^-24 of each value, a handful of them in a product.
  t.ok((await distance("ffa")) < 1e-6, `${await distance("ffa")}`);
  t.ok((await distance("fedavg")) > 1e-3, `${await distance("fedavg")}`);
});

t.test("stack averages the products as far as the rank goes, and says what it lost", async (t) => {
  const toy = await openToy(t);
  const task = float32Task(toy, { method: "stack" });
  const [round] = (await play(toy, task, whole, 1)) as [Round];
  for (const module of modulesOf(round.global.parameters)) {
    const expected = meanProduct(round, module, initialOf(task));
    const actual = productOf(round.global.parameters, module);
    const norm = (all: readonly number[]) => Math.sqrt(all.reduce((sum, one) => sum + one ** 2, 0));
    const missing =
      norm(expected.map((value, i) => value - (actual[i] as number))) / norm(expected);
    const told = round.global.truncation?.get(module) ?? Number.NaN;
    t.ok(Math.abs(missing - told) < 1e-5, `${module}: ${missing} is missing, ${told} told`);
  }
  t.ok(loraScale(task.adapter) > 0);
  const [alone] = await play(toy, task, whole.slice(0, 1), 1);
  for (const lost of alone?.global.truncation?.values() ?? [1])
    t.ok(lost < 1e-6, "one rank-2 product fits");
});

t.test("a checkpoint gives back all that a coordinator goes on from", async (t) => {
  const toy = await openToy(t);
  const aggregation = { optimizer: { kind: "fedyogi" } };
  const task = toy.task({ aggregation, full: { encoding: "int8" } });
  const folder = join(t.testdirName, "run");
  const rounds = await play(toy, task, whole, 3);
  const checkpoints = await openCheckpoints(folder);
  for (const { global } of rounds) await checkpoints.save(global);
  for (const round of [2, 3]) {
    const read = await (await openCheckpoints(folder)).read(round);
    const { global } = rounds[round - 1] as Round;
    t.same(read.round, round);
    t.same(values(read.parameters), values(global.parameters));
    t.same(values(read.residual), values(global.residual));
    t.same(values(read.optimizer), values(global.optimizer));
    t.same(
      values(decodeAll(read.change ?? new Map())),
      values(decodeAll(global.change ?? new Map())),
    );
    t.ok((read.residual?.size ?? 0) > 0 && (read.optimizer?.size ?? 0) > 0);
  }
  t.equal(
    (await checkpoints.read(1)).change,
    undefined,
    "what only older rounds need is forgotten",
  );
});

function modulesOf(parameters: Parameters): readonly string[] {
  return [...parameters.keys()].flatMap((name) => /^(.+)\.lora_A\.weight$/.exec(name)?.[1] ?? []);
}

/** B A of a layer in float64, row by row. */
function productOf(parameters: Parameters, module: string): readonly number[] {
  const a = tensorOf(parameters, `${module}.lora_A.weight`);
  const b = tensorOf(parameters, `${module}.lora_B.weight`);
  const [rank = 0, inSize = 0] = a.shape;
  const outSize = b.shape[0] ?? 0;
  return Array.from({ length: outSize * inSize }, (_, at) => {
    const [row, column] = [Math.floor(at / inSize), at % inSize];
    let sum = 0;
    for (let r = 0; r < rank; r++)
      sum += (b.data[row * rank + r] as number) * (a.data[r * inSize + column] as number);
    return sum;
  });
}

/** The weighted mean of the devices' own products. */
function meanProduct(round: Round, module: string, start: Parameters): readonly number[] {
  const contributions = contributionsOf(round);
  const total = contributions.reduce((sum, { weight }) => sum + weight, 0);
  const products = contributions.map(({ update, weight }) => {
    const own = new Map(
      [...start].map(([name, tensor]) => {
        const change = update.get(name)?.data;
        const data = tensor.data.map((value, i) => value + (change?.[i] ?? 0));
        return [name, { ...tensor, data }];
      }),
    );
    return productOf(own, module).map((value) => (weight * value) / total);
  });
  const [first = [], ...others] = products;
  return first.map((value, i) => others.reduce((sum, one) => sum + (one[i] as number), value));
}

t.test(
  "a device of a lower rank moves the ranks that it holds and sends as much less",
  async (t) => {
    const toy = await openToy(t);
    const task = float32Task(toy, {});
    const [a, b, c] = whole as [ToyDevice, ToyDevice, ToyDevice];
    const low: ToyDevice = { ...b, rank: 1 };
    const start = initialOf(task);
    const [alone] = (await play(toy, task, [low], 1)) as [Round];
    for (const [name, { shape, data }] of start) {
      const after = tensorOf(alone.global.parameters, name).data;
      const isSecondRank = (i: number) =>
        name.includes("lora_A") ? i >= (shape[1] ?? 0) : name.includes("lora_B") && i % 2 === 1;
      t.ok(
        after.every((value, i) => !isSecondRank(i) || value === data[i]),
        name,
      );
    }
    const { ups = [] } = alone.devices.get("b") ?? {};
    const sent = [...(ups.at(-1)?.tensors.values() ?? [])].reduce(
      (sum, { bytes }) => sum + bytes.length,
      0,
    );
    const full = builtInProtocols.find(({ name }) => name === "full");
    t.equal(full?.estimate(task, { holdOut: 0, rank: 1 }).uplinkBytes, sent);
    t.ok(sent < (full?.estimate(task, { holdOut: 0 }).uplinkBytes ?? 0));
    const [together] = (await play(toy, task, [a, low, c], 1)) as [Round];
    const [others] = (await play(toy, task, [a, c], 1)) as [Round];
    const name = [...start.keys()].find((one) => one.includes("lora_A")) ?? "";
    const inSize = tensorOf(start, name).shape[1] ?? 0;
    const row = (round: Round, rank: number) =>
      [...tensorOf(round.global.parameters, name).data].slice(rank * inSize, (rank + 1) * inSize);
    t.same(row(together, 1), row(others, 1), "the second rank is averaged over those that hold it");
    t.notSame(row(together, 0), row(others, 0));
    const [whatever] = (await play(toy, task, [a, { ...b, rank: 2 }, c], 1)) as [Round];
    const [plain] = (await play(toy, task, whole, 1)) as [Round];
    t.same(
      values(whatever.global.parameters),
      values(plain.global.parameters),
      "the task's own rank",
    );
  },
);

t.test("a device's own encoding narrows its updates and nothing else", async (t) => {
  const toy = await openToy(t);
  const task = float32Task(toy, {});
  const [a, b] = whole as [ToyDevice, ToyDevice];
  const rounds = await play(toy, task, [a, { ...b, encoding: "int4" }]);
  const encodings = (id: string, way: "ups" | "downs") =>
    rounds.flatMap(({ devices }) =>
      (devices.get(id)?.[way] ?? []).flatMap(({ tensors }) =>
        [...tensors.values()].map(({ encoding }) => encoding),
      ),
    );
  t.same(new Set(encodings("b", "ups")), new Set(["int4"]));
  for (const other of [encodings("a", "ups"), encodings("a", "downs"), encodings("b", "downs")])
    t.same(new Set(other), new Set(["float32"]));
});
