// One coordinator's part for all devices of a cut (SplitFed V2).
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import {
  type AnyProtocol,
  batchesOf,
  builtInProtocols,
  type Contribution,
  foldRound,
  modelSpec,
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
  type Float32Tensor,
  loadFront,
  loadMiddle,
  loadStep,
  type Optimizer,
  type Parameters,
  squaredNorms,
} from "../../runtime/index.ts";
import { openFederation, playRounds, type Round, type ToyDevice } from "./loopback.ts";
import { openToy, type TaskInput, type Toy, toyExamples } from "./toy.ts";

const cut = (id: string, count: number, cutLayer = 2): ToyDevice => ({
  ...{ id, cutLayer, protocol: "split" },
  train: toyExamples(id, count),
});
const devices = [cut("a", 13), cut("b", 3), cut("c", 21)];
const wire = { activations: "float32", gradients: "float32" };
const adapter = { rank: 2, alpha: 4, targets: ["c_attn", "mlp.c_fc"], dropout: 0.2 };

const play = (toy: Toy, settings: TaskInput, members: readonly ToyDevice[], rounds?: number) =>
  playRounds(toy, toy.task({ adapter, ...settings }), members, rounds);

const settingsOf = (tails: string, uShape = false, maxGradientNorm = 1e6): TaskInput => ({
  labelsMayLeave: !uShape,
  training: { maxGradientNorm, weightDecay: 0.01 },
  full: { encoding: "float32", proximal: 0.1 },
  split: { ...wire, uShape, tailLayers: uShape ? 1 : 0, tails },
});

const updateOf = (round: Round | undefined, id: string): Contribution =>
  round?.devices.get(id)?.result as Contribution;

t.test("a device alone trains a shared part as one of its own", async (t) => {
  const toy = await openToy(t);
  for (const uShape of [false, true]) {
    const [own, shared] = [
      await play(toy, settingsOf("per-device", uShape), [cut("a", 13)]),
      await play(toy, settingsOf("shared", uShape), [cut("a", 13)]),
    ];
    const parameters = (rounds: Round[]) => rounds.map(({ global }) => global.parameters);
    t.ok(isDeepStrictEqual(parameters(shared), parameters(own)), `U-shape: ${uShape}`);
  }
});

t.test("devices at once do what they do step by step in device-id order", async (t) => {
  const toy = await openToy(t);
  for (const uShape of [false, true]) {
    // Gradients here have norms of 0.3 to 3: each end clips every step by its own.
    const settings = settingsOf("shared", uShape, 0.05);
    const [round] = await play(toy, settings, devices, 1);
    const [again] = await play(toy, settings, devices, 1);
    t.ok(isDeepStrictEqual(again?.global, round?.global), "equal runs give equal bytes");
    const expected = await byHand(toy, toy.task({ adapter, ...settings }));
    for (const { id } of devices) {
      const { update } = updateOf(round, id);
      t.ok(isDeepStrictEqual(new Map([...update].sort()), expected(id)), `${id}, ${uShape}`);
    }
  }
});

/** What each device contributes to the first round, from plain loops over the graphs. */
async function byHand(toy: Toy, task: Task): Promise<(id: string) => Parameters> {
  const spec = modelSpec(task, toy.model);
  const { start } = await openFederation(toy, task, []);
  const { training, split } = task;
  const cuts = cutsAt(task, 2);
  const names = new Set(deviceShapes(task, cuts).keys());
  const part = (isDevice: boolean) =>
    new Map([...start.parameters].filter(([name]) => names.has(name) === isDevice));
  const { weightDecay } = training;
  const front = await loadFront(toy.engine, spec, 2);
  const tail = await loadStep(toy.engine, spec, { from: cuts.tailFrom ?? 2 });
  const middle = split.uShape ? await loadMiddle(toy.engine, spec, { from: 2, to: 3 }) : undefined;
  const shared = adamW(part(false), { weightDecay });
  const rateAt = rateOf(task, { round: 1, attempt: 1, lane: 1, globalStep: 0, acceptedLane: 0 });
  const move = (optimizer: Optimizer, found: Parameters, step: number) => {
    const gradients = new Map(
      [...found].map(([name, { shape, data }]) => {
        const now = (optimizer.parameters.get(name) as Float32Tensor).data;
        const before = (start.parameters.get(name) as Float32Tensor).data;
        // FedProx at mu = 0.1; parameters of a held middle are taken where they were.
        const at = held.get(name)?.data ?? now;
        const pulled = data.map((g, i) => g + 0.1 * ((at[i] as number) - (before[i] as number)));
        return [name, { dtype: "float32", shape, data: pulled }] as const;
      }),
    );
    const scale = clipScale(squaredNorms(gradients), training.maxGradientNorm);
    optimizer.step(gradients, { rate: rateAt(step), scale });
  };
  let held: Parameters = new Map();
  const members = devices.map(({ id, train }) => {
    const batches = [...batchesOf(task, train, roundBatches(task, id, 1, train.length))];
    return { id, batches, own: adamW(part(true), { weightDecay }) };
  });
  for (let step = 0; step < training.localSteps; step++) {
    // All forward passes of the middle come before the first backward pass: each is a turn.
    held = middle ? copyOf(shared.parameters) : new Map();
    for (const { id, batches, own } of members) {
      const mask = [...roundMaskKey(task, id, 1), step];
      const plain = batches[step]?.feeds ?? new Map();
      const feeds = front.withMasks(plain, mask);
      const activations = await front.forward(own.parameters, feeds);
      const entering = new Map([...plain, ["activations", activations]]);
      if (!middle) {
        const found = await tail.run(shared.parameters, tail.withMasks(entering, mask));
        move(shared, found.gradients, step);
        const back = found.cutGradient as Float32Tensor;
        move(own, await front.backward(own.parameters, feeds, back), step);
        continue;
      }
      const inside = middle.withMasks(entering, mask);
      const states = await middle.forward(held, inside);
      const behind = await tail.run(
        own.parameters,
        tail.withMasks(new Map([...plain, ["activations", states]]), mask),
      );
      const leaving = behind.cutGradient as Float32Tensor;
      const { gradients, cutGradient } = await middle.backward(held, inside, leaving);
      move(shared, gradients, step);
      const before = await front.backward(own.parameters, feeds, cutGradient);
      move(own, new Map([...before, ...behind.gradients]), step);
    }
  }
  return (id) => {
    const { own } = members.find((member) => member.id === id) as (typeof members)[number];
    const now = new Map([...own.parameters, ...shared.parameters].sort());
    return changeOf(now, start.parameters);
  };
}

const changeOf = (now: Parameters, start: Parameters): Parameters =>
  new Map(
    [...now].map(([name, { shape, data }]) => {
      const before = (start.get(name) as Float32Tensor).data;
      const change = data.map((value, i) => value - (before[i] as number));
      return [name, { dtype: "float32", shape, data: change }];
    }),
  );

t.test("the tail counts once, with the weight of all devices that trained it", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ adapter, ...settingsOf("shared") });
  const full: ToyDevice = { id: "d", protocol: "full", train: toyExamples("d", 8) };
  const federation = await openFederation(toy, task, [...devices, full]);
  const { start } = federation;
  const round = await federation.round(start);
  await federation.close();
  const isTail = (name: string) => /h\.[23]\.|score/.test(name);
  const results = ["a", "b", "c", "d"].map((id) => updateOf(round, id));
  const tails = results.slice(0, 3).map(({ update }) => [...update].filter(([n]) => isTail(n)));
  t.ok(isDeepStrictEqual(tails[0], tails[1]) && isDeepStrictEqual(tails[0], tails[2]));
  const once = results.flatMap((result, i) => {
    const front = new Map([...result.update].filter(([name]) => !isTail(name)));
    const own = i < 3 ? [{ ...result, update: front }] : [result];
    const sum = { ...result, deviceId: "c-all", weight: 13 + 3 + 21, update: new Map(tails[0]) };
    return i === 2 ? [...own, sum] : own;
  });
  const expected = await foldRound(task, start, { results: once, servers: new Map() });
  let most = 0;
  for (const [name, { data }] of expected.parameters) {
    const actual = (round.global.parameters.get(name) as Float32Tensor).data;
    data.forEach((value, i) => {
      most = Math.max(most, Math.abs(value - (actual[i] as number)) / Math.abs(value || 1));
    });
  }
  // Both sums are in float64 and rounded to float32 once: they differ by a unit in the last place at most.
  t.ok(most <= 2 ** -23, `${most}`);
});

t.test(
  "a lane that the round does not count changes nothing after the last delivery",
  async (t) => {
    const toy = await openToy(t);
    const task = toy.task({ adapter, ...settingsOf("shared") });
    const { engine, model, publicSet } = toy;
    const split = builtInProtocols.find(({ name }) => name === "split") as AnyProtocol;
    const place = { task, engine, model, publicSet, rowsOf: rowsInMemory };
    const server = await split.createServer({ ...place, after: () => () => {}, log: () => {} });
    const played = await play(toy, settingsOf("shared"), [cut("a", 13)], 1);
    const { ups = [] } = played[0]?.devices.get("a") ?? {};
    const { start } = await openFederation(toy, task, []);
    const info = { round: 1, attempt: 1, lane: 1, globalStep: 0, acceptedLane: 0 };
    const { version: protocolVersion } = split;
    const assignment = { protocol: "split", protocolVersion, cutLayer: 2, reason: "" };
    const open = (deviceId: string) => server.openLane({ ...assignment, deviceId }, info, start);
    const { signal } = new AbortController();
    const first = await open("a");
    for (const up of ups) await first.receive(split.parseUp(up), signal);
    const delivered = await first.finish();
    t.equal(first.endsWithRound, true, "a coordinator that restarts begins it again");
    const late = await open("b");
    await late.receive(split.parseUp(ups[0] as (typeof ups)[number]), signal);
    t.ok(isDeepStrictEqual(await first.finish(), delivered));
    const waits = open("c").then((lane) =>
      lane.receive(split.parseUp(ups[0] as (typeof ups)[number]), signal),
    );
    await t.resolves(waits, "it is its turn");
    await late.close();
    await t.rejects(late.receive(split.parseUp(ups[1] as (typeof ups)[number]), signal));
    await server.close();
  },
);

t.test(
  "a shared part keeps the contract but for lanes that know nothing of each other",
  async (t) => {
    const toy = await openToy(t);
    const { engine, model, publicSet } = toy;
    const split = builtInProtocols.find(({ name }) => name === "split") as AnyProtocol;
    const runner = {
      test: (title: string, body: ContractBody) =>
        // One after another, each begins with what the one before has made of the part.
        title.includes("lanes at once") ? undefined : t.test(title, body),
    };
    for (const uShape of [false, true]) {
      protocolContract(runner, split, {
        task: toy.task(settingsOf("shared", uShape, 0.05)),
        ...{ engine, model, publicSet },
        train: toyExamples("train", 14),
        holdOut: toyExamples("hold-out", 6),
        cutLayer: 1,
      });
    }
  },
);

type ContractBody = (t: { ok(value: unknown, text: string): unknown }) => Promise<void>;
