// What `full` keeps, sends and computes under each of its options.
import t from "tap";
import { readSection, type SectionName, stageSections } from "../../protocols/client-memory.ts";
import {
  globalSender,
  nextGlobal,
  partOf,
  receiveGlobal,
  rememberGlobal,
} from "../../protocols/global-model.ts";
import {
  type ClientState,
  decodeAll,
  difference,
  foldRound,
  type GlobalModel,
  initialOf,
  type Payload,
  shapesOf,
  type Task,
} from "../../protocols/index.ts";
import { subset } from "../../protocols/payload.ts";
import { type Float32Tensor, float32, type Parameters, randomStream } from "../../runtime/index.ts";
import {
  type DeviceRound,
  type Federation,
  openFederation,
  type Round,
  type ToyDevice,
} from "./loopback.ts";
import { openToy, type TaskInput, type Toy, toyExamples } from "./toy.ts";

const values = (tensors: Parameters | undefined) =>
  tensors && Object.fromEntries([...tensors].map(([name, { data }]) => [name, [...data]]));

const tensor = (name: string, ...data: number[]): Parameters =>
  new Map([[name, float32([data.length], data)]]);

/** A state that commits whatever is staged. */
function committing(): ClientState {
  let committed: Parameters | undefined;
  return {
    read: async () => committed,
    stage: async (tensors) => {
      committed = tensors;
    },
  };
}

t.test("sections of a device's memory are written without touching their neighbours", async (t) => {
  const state = committing();
  t.equal(await readSection(state, "local"), undefined);
  await stageSections(state, { local: tensor("x/theta", 1), residual: tensor("x", 2, 3) });
  await stageSections(state, { theta: tensor("x", 4) });
  t.same(values(await readSection(state, "local")), { "x/theta": [1] });
  t.same(values(await readSection(state, "residual")), { x: [2, 3] });
  t.same(values(await readSection(state, "theta")), { x: [4] });
  await stageSections(state, { residual: "drop", theta: tensor("y", 5) });
  t.equal(await readSection(state, "residual"), undefined);
  t.same(values(await readSection(state, "theta")), { y: [5] }, "a section is replaced as a whole");
  t.same(values(await readSection(state, "local")), { "x/theta": [1] });
});

const toyDevices: readonly ToyDevice[] = [
  { id: "a", protocol: "full", train: toyExamples("a", 13) },
  { id: "b", protocol: "full", train: toyExamples("b", 5) },
];
const asSplit = (device: ToyDevice, cutLayer: number): ToyDevice => ({
  ...device,
  protocol: "split",
  cutLayer,
});

/** Rounds of a federation opened for them; a round in `refused` is folded though its devices commit nothing. */
async function play(
  toy: Toy,
  settings: TaskInput,
  devices: readonly ToyDevice[] = toyDevices,
  { rounds = 3, refused = [] as readonly number[] } = {},
): Promise<{ rounds: readonly Round[]; stateOf: Federation["stateOf"]; task: Task }> {
  const task = toy.task(settings);
  const federation = await openFederation(toy, task, devices);
  const played: Round[] = [];
  for (let round = 1; round <= rounds; round++) {
    const global = played.at(-1)?.global ?? federation.start;
    played.push(await federation.round(global, { accepted: !refused.includes(round) }));
  }
  await federation.close();
  return { rounds: played, stateOf: federation.stateOf, task };
}

const sent = (round: Round | undefined, id: string) => round?.devices.get(id);
/** How theta came: the fields of a full device's message, a group of a split device's. */
const thetaOf = ({ fields }: Payload) => (fields["theta"] ?? fields) as Payload["fields"];
const forms = (round: Round | undefined, id: string) =>
  (sent(round, id)?.downs ?? []).flatMap((down) => thetaOf(down)["form"] ?? []);
const bytesOf = ({ tensors }: Payload) =>
  [...tensors.values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
const kindsOf = (round: Round | undefined, id: string) => [
  ...new Set((sent(round, id)?.ups ?? []).map(({ kind }) => kind)),
];

t.test("the start travels as nothing, later rounds as the change that all ends add", async (t) => {
  const toy = await openToy(t);
  const split = asSplit(toyDevices[1] as ToyDevice, 2);
  for (const encoding of ["bf16", "int8"] as const) {
    const devices = [toyDevices[0] as ToyDevice, split];
    const { rounds, stateOf, task } = await play(toy, { full: { encoding } }, devices);
    for (const { id } of devices) {
      t.same(
        rounds.map((round) => forms(round, id)),
        [["start"], ["change"], ["change"]],
        id,
      );
      t.equal(bytesOf(sent(rounds[0], id)?.downs[0] as Payload), 0);
      t.same(thetaOf(sent(rounds[2], id)?.downs[0] as Payload), { form: "change", base: 1 });
      const { round, model: _, ...held } = values(await sectionOf(stateOf, id, "theta")) ?? {};
      t.same(round, [2]);
      const theta = values(rounds[1]?.global.parameters) ?? {};
      const names =
        id === "b" ? [...shapesOf(task, { from: 0, to: 2 }).keys()] : Object.keys(theta);
      t.equal(Object.keys(held).length, names.length);
      for (const name of names) t.same(held[name], theta[name], `${encoding} ${id} ${name}`);
    }
  }
});

t.test(
  "a float32 wire carries the parameters themselves, and without kd devices keep none",
  async (t) => {
    const toy = await openToy(t);
    const { rounds, stateOf } = await play(toy, {
      full: { encoding: "float32", errorFeedback: true },
      selection: { order: ["full", "split"] },
    });
    t.same(
      rounds.map((round) => forms(round, "a")),
      [["start"], ["whole"], ["whole"]],
    );
    const { tensors = new Map() } = sent(rounds[2], "a")?.downs[0] ?? {};
    t.same(values(decodeAll(tensors)), values(rounds[1]?.global.parameters));
    t.equal(await stateOf("a"), undefined);
    t.equal(rounds[2]?.global.residual, undefined);
  },
);

t.test("a device that missed a round asks for the whole and loses nothing", async (t) => {
  const toy = await openToy(t);
  const [a, b] = toyDevices as [ToyDevice, ToyDevice];
  const devices = [a, asSplit(b, 2)];
  // Nothing but theta is kept between these rounds, so what was not committed must not show.
  const settings = { full: { encoding: "int8", errorFeedback: false } };
  const steady = await play(toy, settings, devices);
  const missed = await play(toy, settings, devices, { refused: [1] });
  for (const id of ["a", "b"]) {
    t.same(
      missed.rounds.map((round) => forms(round, id)),
      [["start"], ["change", "whole"], ["change"]],
    );
    t.equal(kindsOf(missed.rounds[1], id)[0], "catchUp");
    t.notOk(kindsOf(missed.rounds[2], id).includes("catchUp"));
  }
  t.same(values(missed.rounds[2]?.global.parameters), values(steady.rounds[2]?.global.parameters));
});

t.test("a device whose cut moved deeper asks for the front that it lacks", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ full: { encoding: "bf16" } });
  const state = committing();
  const askedAt: number[] = [];
  let global: GlobalModel = { round: 0, parameters: initialOf(task) };
  for (const cutLayer of [2, 3, 1]) {
    const shapes = shapesOf(task, { from: 0, to: cutLayer });
    const initial = subset(initialOf(task), shapes.keys());
    const sender = globalSender(task)(global);
    const catchUp = async () => {
      askedAt.push(cutLayer);
      return partOf(sender.whole(), shapes.keys());
    };
    const theta = await receiveGlobal(partOf(sender.first, shapes.keys()), {
      task,
      state,
      initial,
      catchUp,
    });
    t.same(values(theta), values(subset(global.parameters, shapes.keys())), `cut ${cutLayer}`);
    await stageSections(state, rememberGlobal(task, theta, global.round + 1));
    global = nextGlobal(task, global, moved(global.parameters, `cut ${cutLayer}`));
  }
  t.same(askedAt, [3], "a shallower front is part of what it holds");
});

t.test("what an encoding loses is sent later, at both ends", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ full: { encoding: "int8" } });
  const wanted = (theta: GlobalModel, mean: Parameters) =>
    combine(combine(theta.parameters, theta.residual ?? new Map()), mean);
  let global: GlobalModel = { round: 0, parameters: initialOf(task) };
  for (let round = 1; round <= 4; round++) {
    const mean = difference(moved(global.parameters, `mean ${round}`), global.parameters);
    const contribution = { kind: "contribution", deviceId: "a", weight: 1, update: mean } as const;
    const before = wanted(global, mean);
    global = await foldRound(task, global, { results: [contribution], servers: new Map() });
    const after = combine(global.parameters, global.residual ?? new Map());
    // Three float32 roundings of values below 1 lie between the two sums.
    t.ok(largestDistance(after, before) < 3 * 2 ** -24, `${largestDistance(after, before)}`);
    t.ok(largestDistance(global.parameters, before) > 1e-5, "int8 itself is that coarse");
  }
  const device = await play(toy, { full: { encoding: "int8" } }, toyDevices.slice(0, 1), {
    rounds: 1,
  });
  const update = decodeAll(sent(device.rounds[0], "a")?.ups[0]?.tensors ?? new Map());
  const exact = await play(toy, { full: { encoding: "float32" } }, toyDevices.slice(0, 1), {
    rounds: 1,
  });
  const trained = decodeAll(sent(exact.rounds[0], "a")?.ups[0]?.tensors ?? new Map());
  const residual = (await sectionOf(device.stateOf, "a", "residual")) ?? new Map();
  t.ok(largestDistance(combine(update, residual), trained) < 2 ** -24);
  t.ok(largestDistance(update, trained) > 1e-5);
});

t.test("error feedback changes what is sent after the first loss, and nothing else", async (t) => {
  const toy = await openToy(t);
  const [one] = [toyDevices.slice(0, 1)];
  const withIt = await play(toy, { full: { encoding: "int8" } }, one);
  const told = await play(toy, { full: { encoding: "int8", errorFeedback: true } }, one);
  const without = await play(toy, { full: { encoding: "int8", errorFeedback: false } }, one);
  t.same(withIt.rounds, told.rounds, "int8 has it when nothing is said");
  const traffic = ({ ups, downs }: Pick<DeviceRound, "ups" | "downs">) => [...downs, ...ups];
  const messages = (played: typeof withIt, round: number) =>
    traffic(sent(played.rounds[round], "a") as DeviceRound);
  t.same(messages(withIt, 0), messages(without, 0));
  t.same(
    messages(withIt, 1)[0],
    messages(without, 1)[0],
    "the first change lost nothing before it",
  );
  t.notSame(messages(withIt, 1)[1], messages(without, 1)[1]);
  t.equal(without.rounds[2]?.global.residual, undefined);
  t.equal(await sectionOf(without.stateOf, "a", "residual"), undefined);
  const bf16 = await play(toy, { full: { encoding: "bf16" } }, one);
  t.equal(bf16.rounds[2]?.global.residual, undefined, "bf16 has none unless told");
});

t.test("a residual is kept only once its round was accepted", async (t) => {
  const toy = await openToy(t);
  const { stateOf } = await play(toy, { full: { encoding: "int8" } }, toyDevices, {
    rounds: 1,
    refused: [1],
  });
  t.equal(await stateOf("a"), undefined);
});

/** One section of what a device has committed. */
const sectionOf = async (stateOf: Federation["stateOf"], id: string, name: SectionName) => {
  const state = { read: () => stateOf(id), stage: async () => {} };
  return readSection(state, name);
};

/** Parameters as if something had trained them. */
function moved(parameters: Parameters, name: string): Parameters {
  const random = randomStream("moved", name);
  const change = ({ shape, data }: Float32Tensor) =>
    float32(
      shape,
      data.map((value) => value + 0.01 * random.normal()),
    );
  return new Map([...parameters].map(([key, tensor]) => [key, change(tensor)]));
}

/** Sum in float32 of tensors, the second of which may be absent. */
function combine(one: Parameters, other: Parameters): Parameters {
  return new Map(
    [...one].map(([name, { shape, data }]) => {
      const more = other.get(name)?.data;
      return [
        name,
        float32(
          shape,
          data.map((value, i) => value + (more?.[i] ?? 0)),
        ),
      ];
    }),
  );
}

function largestDistance(one: Parameters, other: Parameters): number {
  let most = 0;
  for (const [name, { data }] of one) {
    const theirs = other.get(name)?.data ?? new Float32Array();
    for (const [i, value] of data.entries())
      most = Math.max(most, Math.abs(value - (theirs[i] ?? Number.NaN)));
  }
  return most;
}
