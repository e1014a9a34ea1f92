// A device that takes the next step's forward pass while the answer to this one travels.
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import {
  type AnyProtocol,
  batchesOf,
  builtInProtocols,
  type Contribution,
  initialOf,
  modelSpec,
  type Payload,
  protocolContract,
  rateOf,
  roundBatches,
  roundMaskKey,
  rowsInMemory,
  type Task,
} from "../../protocols/index.ts";
import { cutsAt, deviceShapes } from "../../protocols/split/cut.ts";
import { copyOf } from "../../protocols/split/parameter-copy.ts";
import {
  adamW,
  clipScale,
  type Engine,
  type Float32Tensor,
  loadFront,
  loadMiddle,
  loadStep,
  type Parameters,
  squaredNorms,
} from "../../runtime/index.ts";
import { playRounds, type Round, type ToyDevice } from "./loopback.ts";
import { openToy, type TaskInput, type Toy, toyExamples } from "./toy.ts";

const device: ToyDevice = {
  ...{ id: "a", protocol: "split", cutLayer: 2 },
  train: toyExamples("a", 13),
};
const adapter = { rank: 2, alpha: 4, targets: ["c_attn", "mlp.c_fc"], dropout: 0.2 };
const split = builtInProtocols.find(({ name }) => name === "split") as AnyProtocol;

const settingsOf = (pipeline: boolean, uShape: boolean): TaskInput => ({
  adapter,
  labelsMayLeave: !uShape,
  // Gradients here have norms of 0.3 to 3: the bound clips every step.
  training: { maxGradientNorm: 0.05, weightDecay: 0.01 },
  full: { encoding: "float32", proximal: 0.1 },
  split: {
    ...{ activations: "float32", gradients: "float32" },
    ...{ uShape, tailLayers: uShape ? 1 : 0, pipeline },
  },
});

async function firstRound(toy: Toy, task: Task): Promise<Round> {
  const [round] = await playRounds(toy, task, [device], 1);
  return round as Round;
}

const outcomeOf = ({ devices }: Round) => {
  const { ups = [], downs = [], result } = devices.get("a") ?? {};
  return { ups, downs, update: new Map([...(result as Contribution).update].sort()) };
};

t.test("the forward pass of a step is taken before the step before it is made", async (t) => {
  const toy = await openToy(t);
  for (const uShape of [false, true]) {
    const round = await firstRound(toy, toy.task(settingsOf(true, uShape)));
    const task = toy.task(settingsOf(true, uShape));
    const expected = await byHand(toy, task);
    t.ok(isDeepStrictEqual(outcomeOf(round).update, expected), `U-shape: ${uShape}`);
    const plain = await firstRound(toy, toy.task(settingsOf(false, uShape)));
    const first = ({ ups, downs }: ReturnType<typeof outcomeOf>) => [ups[0], downs.slice(0, 2)];
    t.ok(isDeepStrictEqual(first(outcomeOf(round)), first(outcomeOf(plain))), "step 1 is plain");
    t.notOk(isDeepStrictEqual(outcomeOf(plain).update, expected), "the others are not");
  }
});

/** What the device and the coordinator come to in the first round, from one loop over the graphs. */
async function byHand(toy: Toy, task: Task): Promise<Parameters> {
  const spec = modelSpec(task, toy.model);
  const start = initialOf(task);
  const { training, split } = task;
  const cuts = cutsAt(task, 2);
  const front = await loadFront(toy.engine, spec, 2);
  const tail = await loadStep(toy.engine, spec, { from: cuts.tailFrom ?? 2 });
  const middle = split.uShape ? await loadMiddle(toy.engine, spec, { from: 2, to: 3 }) : undefined;
  const optimizer = adamW(start, { weightDecay: training.weightDecay });
  const { parameters } = optimizer;
  const rateAt = rateOf(task, { round: 1, attempt: 1, lane: 1, globalStep: 0, acceptedLane: 0 });
  const batches = [...batchesOf(task, device.train, roundBatches(task, "a", 1, 13))];
  const forward = async (step: number) => {
    const mask = [...roundMaskKey(task, "a", 1), step];
    const at = copyOf(parameters);
    const plain = batches[step]?.feeds ?? new Map();
    const feeds = front.withMasks(plain, mask);
    return { mask, at, plain, feeds, activations: await front.forward(at, feeds) };
  };
  let pass = await forward(0);
  for (let step = 0; step < training.localSteps; step++) {
    const { mask, at, plain, feeds, activations } = pass;
    const entering = (states: Float32Tensor) => new Map([...plain, ["activations", states]]);
    const inside = middle?.withMasks(entering(activations), mask) ?? new Map();
    const states = middle ? await middle.forward(parameters, inside) : activations;
    const behind = await tail.run(parameters, tail.withMasks(entering(states), mask));
    const leaving = behind.cutGradient as Float32Tensor;
    const between = await middle?.backward(parameters, inside, leaving);
    const before = await front.backward(at, feeds, between?.cutGradient ?? leaving);
    // The delay: the next pass does not see this step.
    pass = await forward(Math.min(step + 1, training.localSteps - 1));
    const found = new Map([...before, ...(between?.gradients ?? []), ...behind.gradients]);
    const gradients = new Map(
      [...found].map(([name, { shape, data }]) => {
        const origin = (start.get(name) as Float32Tensor).data;
        // FedProx at mu = 0.1, where the gradient was taken.
        const point = (/h\.[01]\./.test(name) ? at : parameters).get(name) as Float32Tensor;
        const pulled = data.map(
          (g, i) => g + 0.1 * ((point.data[i] as number) - (origin[i] as number)),
        );
        return [name, { dtype: "float32", shape, data: pulled }] as const;
      }),
    );
    const scale = clipScale(squaredNorms(gradients), training.maxGradientNorm);
    optimizer.step(gradients, { rate: rateAt(step), scale });
  }
  return new Map(
    [...parameters].sort().map(([name, { shape, data }]) => {
      const origin = (start.get(name) as Float32Tensor).data;
      const change = data.map((value, i) => value - (origin[i] as number));
      return [name, { dtype: "float32", shape, data: change }];
    }),
  );
}

t.test("where nothing moves a delay changes nothing", async (t) => {
  const toy = await openToy(t);
  for (const uShape of [false, true]) {
    const [ahead, plain] = await Promise.all(
      [true, false].map(async (pipeline) => {
        const task = toy.task(settingsOf(pipeline, uShape));
        const still = { ...task, training: { ...task.training, learningRate: 0 } };
        return outcomeOf(await firstRound(toy, still));
      }),
    );
    t.ok(isDeepStrictEqual(ahead, plain), "every message and the update");
  }
});

t.test("the next forward pass begins before the answer is here", async (t) => {
  const toy = await openToy(t);
  for (const [pipeline, uShape, expected] of [
    [false, false, [0, 0, 0, 0]],
    [true, false, [1, 1, 1, 0]],
    [false, true, [0, 0, 0, 0, 0, 0, 0, 0]],
    // In the second of a step's two exchanges.
    [true, true, [0, 1, 0, 1, 0, 1, 0, 0]],
  ] as const) {
    const begun = await runsWhileWaiting(toy, toy.task(settingsOf(pipeline, uShape)));
    t.same(begun, expected, `pipeline: ${pipeline}, U-shape: ${uShape}`);
  }
});

/** Of each training message in turn: the passes that the device has begun when its answer leaves the coordinator. */
async function runsWhileWaiting(toy: Toy, task: Task): Promise<number[]> {
  let runs = 0;
  const counting: Engine = {
    ...toy.engine,
    load: async (graph, options) => {
      const session = await toy.engine.load(graph, options);
      const run: typeof session.run = (feeds, outputs) => {
        runs += 1;
        return session.run(feeds, outputs);
      };
      return { ...session, run };
    },
  };
  const { model, publicSet } = toy;
  const { version: protocolVersion } = split;
  const assignment = {
    ...{ deviceId: "a", protocol: "split", protocolVersion, cutLayer: 2, reason: "" },
  };
  const shared = { task, model, log: () => {} };
  const client = await split.createClient({
    ...shared,
    ...{ deviceId: "a", assignment, engine: counting, train: device.train, holdOut: [] },
    publicSet: async () => publicSet,
    state: { read: async () => undefined, stage: async () => {} },
    rows: rowsInMemory(),
  });
  const after = () => () => {};
  const server = await split.createServer({
    ...{ ...shared, engine: toy.engine, publicSet, rowsOf: rowsInMemory, after },
  });
  const info = { round: 1, attempt: 1, lane: 1, globalStep: 0, acceptedLane: 0 };
  const lane = await server.openLane(assignment, info, { round: 0, parameters: initialOf(task) });
  const { signal } = new AbortController();
  const begun: number[] = [];
  const ask = async (up: Payload) => {
    const before = runs;
    const answer = (await lane.receive(up, signal)) as Payload;
    begun.push(runs - before);
    return answer;
  };
  const send = async (up: Payload) => void (await lane.receive(up, signal));
  await client.runRound(info, lane.first, { ask, send }, signal);
  await client.close();
  await server.close();
  return begun;
}

t.test("a pipeline keeps the contract", async (t) => {
  const toy = await openToy(t);
  const { engine, model, publicSet } = toy;
  for (const uShape of [false, true]) {
    protocolContract(t, split, {
      task: toy.task(settingsOf(true, uShape)),
      ...{ engine, model, publicSet },
      train: toyExamples("train", 14),
      holdOut: toyExamples("hold-out", 6),
      cutLayer: 1,
    });
  }
});

t.test("what is taken ahead is counted as memory", async (t) => {
  const toy = await openToy(t);
  const [ahead = 0, plain = 0] = [true, false].map((pipeline) => {
    const task = toy.task(settingsOf(pipeline, false));
    return split.estimate(task, { cutLayer: 2, holdOut: 0 }).peakMemoryBytes;
  });
  const shapes = [...deviceShapes(toy.task(settingsOf(true, false)), { cutLayer: 2 }).values()];
  const front = shapes.reduce((sum, [rows = 0, columns = 1]) => sum + rows * columns, 0);
  // A batch of 4 x 12 tokens of 32 values, and the front's adapters.
  t.equal(ahead - plain, 4 * (4 * 12 * 32 + front));
});
