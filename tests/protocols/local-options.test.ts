// What a task may change about the work of a device in its round: FedProx, mean gradients, kept moments.
import t from "tap";
import { stageSections } from "../../protocols/client-memory.ts";
import { gradientRule } from "../../protocols/gradient-rule.ts";
import {
  batchesOf,
  decodeAll,
  initialOf,
  modelSpec,
  rateOf,
  roundBatches,
  type Task,
} from "../../protocols/index.ts";
import { readMoments, rememberMoments } from "../../protocols/kept-moments.ts";
import {
  adamW,
  clipScale,
  type Float32Tensor,
  float32,
  loadStep,
  type Parameters,
  randomStream,
  squaredNorms,
  train,
} from "../../runtime/index.ts";
import { openFederation, type Round, type ToyDevice } from "./loopback.ts";
import { openToy, type TaskInput, type Toy, toyExamples } from "./toy.ts";

const a: ToyDevice = { id: "a", protocol: "full", train: toyExamples("a", 13) };
const b: ToyDevice = { id: "b", protocol: "full", train: toyExamples("b", 5) };

async function play(
  toy: Toy,
  settings: TaskInput,
  devices: readonly ToyDevice[] = [a],
  { rounds = 2, refused = [] as readonly number[] } = {},
): Promise<readonly Round[]> {
  const federation = await openFederation(toy, toy.task(settings), devices);
  const played: Round[] = [];
  for (let round = 1; round <= rounds; round++) {
    const global = played.at(-1)?.global ?? federation.start;
    played.push(await federation.round(global, { accepted: !refused.includes(round) }));
  }
  await federation.close();
  return played;
}

const values = (tensors: Parameters | undefined) =>
  tensors && Object.fromEntries([...tensors].map(([name, { data }]) => [name, [...data]]));
const thetaOf = (rounds: readonly Round[], round: number) =>
  rounds[round - 1]?.global.parameters ?? new Map<string, Float32Tensor>();
const dataOf = (tensors: Parameters, name: string) => tensors.get(name)?.data ?? new Float32Array();

function largestDistance(one: Parameters, other: Parameters): number {
  const distances = [...one].flatMap(([name, { data }]) => {
    const theirs = dataOf(other, name);
    return [...data].map((value, i) => Math.abs(value - (theirs[i] ?? Number.NaN)));
  });
  return Math.max(...distances);
}

t.test("the proximal gradient is that of its term, by finite differences", async (t) => {
  const toy = await openToy(t);
  const random = randomStream("proximal");
  const draw = () =>
    new Map([
      [
        "x",
        float32(
          [5],
          Array.from({ length: 5 }, () => random.normal()),
        ),
      ],
    ]);
  const [theta, center, gradients] = [draw(), draw(), draw()];
  const mu = 0.7;
  const adjusted = gradientRule(toy.task({ full: { proximal: mu } }), center)(gradients, theta);
  const [at, from] = [theta, center].map((one) => [...dataOf(one, "x")]) as [number[], number[]];
  const term = (x: readonly number[]) =>
    (mu / 2) * x.reduce((sum, value, i) => sum + (value - (from[i] ?? 0)) ** 2, 0);
  for (let i = 0; i < 5; i++) {
    const moved = (by: number) => at.map((value, j) => (j === i ? value + by : value));
    const slope = (term(moved(1e-4)) - term(moved(-1e-4))) / 2e-4;
    const added = (dataOf(adjusted, "x")[i] ?? 0) - (dataOf(gradients, "x")[i] ?? 0);
    // Central differences of a square are exact but for float64; gradients are float32 of size 1.
    t.ok(Math.abs(added - slope) < 1e-6, `${added} against ${slope}`);
  }
});

t.test("FedProx holds full and split devices alike, bit for bit, nearer to theta", async (t) => {
  const toy = await openToy(t);
  const cut = (device: ToyDevice): ToyDevice => ({ ...device, protocol: "split", cutLayer: 2 });
  const distances: number[] = [];
  for (const proximal of [0, 1, 100]) {
    const settings = { full: { encoding: "float32", proximal } };
    const whole = thetaOf(await play(toy, settings, [a, b]), 2);
    t.same(
      values(thetaOf(await play(toy, settings, [cut(a), b]), 2)),
      values(whole),
      `${proximal}`,
    );
    distances.push(largestDistance(whole, initialOf(toy.task())));
  }
  const [free = 0, drawn = 0, held = 0] = distances;
  t.ok(free > drawn && drawn > held, distances.join(" > "));
  // At theta_t itself the term is flat: one step a round knows nothing of it.
  const one = (proximal: number) =>
    play(toy, { training: { localSteps: 1 }, full: { encoding: "float32", proximal } });
  t.same(values(thetaOf(await one(100), 2)), values(thetaOf(await one(0), 2)));
});

/** The clipped mean gradient of a device's first batches, from the runtime's own step. */
async function meanGradient(
  toy: Toy,
  task: Task,
  at: Parameters,
  round: number,
): Promise<Parameters> {
  const { gradientBatches } = task.full;
  const step = await loadStep(toy.engine, modelSpec(task, toy.model));
  const order = roundBatches(task, "a", round, a.train.length, gradientBatches);
  const sums = new Map<string, number[]>();
  for (const { feeds } of batchesOf(task, a.train, order)) {
    for (const [name, { data }] of (await step.run(at, feeds)).gradients) {
      const sum = sums.get(name) ?? [...data].map(() => 0);
      sums.set(
        name,
        sum.map((value, i) => value + (data[i] ?? 0) / gradientBatches),
      );
    }
  }
  await step.close();
  const mean = new Map([...sums].map(([name, data]) => [name, float32([data.length], data)]));
  const scale = clipScale(squaredNorms(mean), task.training.maxGradientNorm);
  return new Map(
    [...mean].map(([name, { shape, data }]) => [
      name,
      float32(
        shape,
        data.map((one) => scale * one),
      ),
    ]),
  );
}

t.test("a mean gradient enters the mean as one step of the round's rate", async (t) => {
  const toy = await openToy(t);
  for (const [gradientBatches, maxGradientNorm] of [
    [1, 1e6],
    [3, 0.05],
    [6, 1e6],
  ] as const) {
    const full = { encoding: "float32", mode: "gradients", gradientBatches } as const;
    const settings = { full, training: { maxGradientNorm } };
    const task = toy.task(settings);
    const rounds = await play(toy, settings);
    let theta = initialOf(task);
    for (const round of [1, 2]) {
      const { ups = [], report } = rounds[round - 1]?.devices.get("a") ?? {};
      t.equal(ups.at(-1)?.kind, "gradient");
      t.match(report, { steps: gradientBatches, examplesSeen: 4 * gradientBatches });
      const expected = await meanGradient(toy, task, theta, round);
      const sent = decodeAll(ups.at(-1)?.tensors ?? new Map());
      // Sums in another order of float32 and float64 roundings.
      t.ok(largestDistance(sent, expected) < 1e-6, `${gradientBatches} batches, round ${round}`);
      const globalStep = (round - 1) * task.training.localSteps;
      const rate = rateOf(task, { round, attempt: 1, lane: 1, globalStep, acceptedLane: 0 })(0);
      const next = thetaOf(rounds, round);
      for (const [name, { data }] of theta) {
        const step = dataOf(sent, name);
        const stepped = data.map((value, i) => value + Math.fround(-rate * (step[i] ?? 0)));
        t.same([...dataOf(next, name)], [...stepped]);
      }
      theta = next;
    }
    t.equal(rounds[0]?.devices.get("a")?.result.weight, 13);
  }
});

t.test("gradients and updates enter one mean with a split device's", async (t) => {
  const toy = await openToy(t);
  const full = { encoding: "float32", mode: "gradients" } as const;
  const [round] = await play(toy, { full }, [a, { ...b, protocol: "split", cutLayer: 2 }], {
    rounds: 1,
  });
  const [alone] = await play(toy, { full: { encoding: "float32" } }, [b], { rounds: 1 });
  const start = initialOf(toy.task());
  const gradient = round?.devices.get("a")?.result;
  const gradientUpdate = gradient?.kind === "contribution" ? gradient.update : new Map();
  for (const [name, { data }] of start) {
    const other = dataOf(alone?.global.parameters ?? new Map(), name);
    const mine = dataOf(gradientUpdate, name);
    const mixed = dataOf(round?.global.parameters ?? new Map(), name);
    for (const [i, value] of data.entries()) {
      const mean = (13 * (mine[i] ?? 0) + 5 * ((other[i] ?? 0) - value)) / 18;
      // The lone device's update is known to a rounding of theta, of size 1 at most.
      if (Math.abs((mixed[i] ?? 0) - value - mean) > 1e-6) t.fail(`${name} ${i}`);
    }
  }
  t.equal(gradientUpdate.size, start.size);
});

t.test("kept moments make of two rounds one training, fresh ones do not", async (t) => {
  const toy = await openToy(t);
  const task = toy.task();
  const step = await loadStep(toy.engine, modelSpec(task, toy.model));
  const optimizer = adamW(initialOf(task), { weightDecay: 0 });
  for (const round of [1, 2]) {
    const globalStep = (round - 1) * task.training.localSteps;
    const info = { round, attempt: 1, lane: round, globalStep, acceptedLane: round - 1 };
    const order = roundBatches(task, "a", round, a.train.length);
    const batches = [...batchesOf(task, a.train, order)].map(({ feeds }) => feeds);
    const { maxGradientNorm } = task.training;
    await train({ step, optimizer, batches, rateAt: rateOf(task, info), maxGradientNorm });
  }
  const kept = thetaOf(await play(toy, { training: { moments: "keep" } }), 2);
  const fresh = thetaOf(await play(toy, {}), 2);
  // A round's end rounds theta once more; AdamW makes of that at most a few units in the last place of its steps of 1e-2.
  t.ok(largestDistance(kept, optimizer.parameters) < 1e-5);
  t.ok(largestDistance(fresh, optimizer.parameters) > 1e-3);
  const refused = thetaOf(
    await play(toy, { training: { moments: "keep" } }, [a], { refused: [1] }),
    2,
  );
  t.same(values(refused), values(fresh), "a round that was not accepted leaves none");
});

t.test("a kd device keeps its moments, too", async (t) => {
  const toy = await openToy(t);
  const devices: readonly ToyDevice[] = [{ ...a, protocol: "kd" }];
  const losses = async (moments: string) => {
    const rounds = await play(toy, { training: { moments } }, devices);
    return rounds.map((round) => round.devices.get("a")?.report.loss);
  };
  const [kept, fresh] = [await losses("keep"), await losses("fresh")];
  t.equal(kept[0], fresh[0]);
  t.not(kept[1], fresh[1]);
});

t.test("moments are dropped when the assignment or the shapes change", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ training: { moments: "keep" } });
  let committed: Parameters | undefined;
  const state = {
    read: async () => committed,
    stage: async (tensors: Parameters) => {
      committed = tensors;
    },
  };
  const assignment = { deviceId: "a", protocol: "full", protocolVersion: 1, reason: "first" };
  const context = { task, state, assignment } as MomentsContext;
  const theta = new Map([["x", float32([2], [1, 2])]]);
  const optimizer = adamW(theta);
  optimizer.step(new Map([["x", float32([2], [3, -4])]]), { rate: 0.1 });
  await stageSections(state, rememberMoments(context, optimizer.state()));
  const read = (change: object, parameters: Parameters = theta) =>
    readMoments({ ...context, assignment: { ...assignment, ...change } }, parameters);
  t.same(await read({ reason: "another" }), optimizer.state());
  t.equal(await read({ protocol: "kd" }), undefined);
  t.equal(await read({ rank: 2 }), undefined);
  t.equal(await read({}, new Map([["x", float32([3])]])), undefined);
  t.equal(await read({}, new Map([["y", float32([2])]])), undefined);
});

/** What these functions read of a device's context. */
type MomentsContext = globalThis.Parameters<typeof readMoments>[0];
