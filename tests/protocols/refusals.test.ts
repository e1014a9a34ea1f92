// What each end refuses of the other, and what no device is given. Wrong tensors are the contract's subject.
import t from "tap";
import { type BoardKey, boardProfile } from "../../devices/index.ts";
import {
  type AnyProtocol,
  assignDevice,
  builtInProtocols,
  type EncodedTensor,
  encodeTensor,
  findProtocol,
  initialOf,
  type Payload,
  parseTask,
  type RoundInfo,
  requireAssignment,
  rowsInMemory,
  type Task,
} from "../../protocols/index.ts";
import { float32 } from "../../runtime/index.ts";
import { openFederation, type ToyDevice } from "./loopback.ts";
import { openToy, type Toy, toyExamples } from "./toy.ts";

const info: RoundInfo = { round: 1, attempt: 1, lane: 1, globalStep: 0, acceptedLane: 0 };
const { signal } = new AbortController();
const protocolOf = (name: string) =>
  builtInProtocols.find((protocol) => protocol.name === name) as AnyProtocol;

const versions = Object.fromEntries(builtInProtocols.map(({ name, version }) => [name, version]));

/** A fresh lane of the first round, what a device would send it, and what comes of it. */
async function openRound(toy: Toy, task: Task, name: ToyDevice["protocol"]) {
  const cut = name === "split" ? { cutLayer: 2 } : {};
  const holdOut = toyExamples("hold-out", 4);
  const device = { id: "a", protocol: name, train: toyExamples("a", 9), holdOut, ...cut };
  const federation = await openFederation(toy, task, [device]);
  const played = (await federation.round(federation.start)).devices.get("a");
  await federation.close();
  const protocol = protocolOf(name);
  const { engine, model, publicSet } = toy;
  const server = await protocol.createServer({
    ...{ task, engine, model, publicSet, rowsOf: rowsInMemory },
    after: () => () => {},
    log: () => {},
  });
  const assignment = { deviceId: "a", protocol: name, protocolVersion: 1, ...cut, reason: "" };
  const global = { round: 0, parameters: initialOf(task) };
  const lane = await server.openLane(assignment, info, global);
  const receive = async (up: Payload) => lane.receive(protocol.parseUp(up), signal);
  return { lane, receive, ups: played?.ups ?? [], result: played?.result };
}

const withFields = (payload: Payload | undefined, fields: Record<string, unknown>): Payload => ({
  ...(payload as Payload),
  fields: { ...payload?.fields, ...fields },
});

t.test(
  "a finite update that no training makes is refused before it can overflow a sum",
  async (t) => {
    const toy = await openToy(t);
    for (const name of ["full", "split"] as const) {
      const { receive, ups, result } = await openRound(toy, toy.task(), name);
      const update = ups.at(-1) as Payload;
      const [tensor = ""] = update.tensors.keys();
      const { shape } = update.tensors.get(tensor) as EncodedTensor;
      const values = float32(shape);
      values.data[1] = 3e38;
      const huge = new Map(update.tensors).set(tensor, encodeTensor(values, "float32"));
      for (const up of ups.slice(0, -1)) await receive(up);
      await t.rejects(receive({ ...update, tensors: huge }), {
        code: "PROTOCOL_TENSOR_INVALID",
        message: /value 1 changes by 3.*e\+38, at most 1000000/,
      });
      await receive(update);
      t.ok(result, "the honest one is taken");
    }
  },
);

const invalid = (message: RegExp) => ({ code: "PROTOCOL_PAYLOAD_INVALID", message });

t.test(
  "a split lane takes steps in turn with labels it knows, and goes on after a refusal",
  async (t) => {
    const toy = await openToy(t);
    const { lane, receive, ups, result } = await openRound(toy, toy.task(), "split");
    const [first, second, third, fourth, evaluation, update] = ups;
    const outOfTurn = (message: RegExp) => ({ code: "PROTOCOL_OUT_OF_TURN", message });
    const send = (payload: Payload | undefined) => receive(payload as Payload);

    await t.rejects(send(second), outOfTurn(/step 1 came, step 0 was expected/));
    await t.rejects(send(withFields(first, { labels: [0, 1, 2, 0] })), invalid(/one class of 2/));
    await t.rejects(send(withFields(first, { labels: [0, 1, -1, 0] })), invalid(/one class of 2/));
    await t.rejects(send(withFields(first, { labels: [0, 1] })), invalid(/for each text/));
    await t.rejects(send(withFields(first, { labels: [0.5, 1, 0, 1] })), invalid(/labels/));
    await t.rejects(send(withFields(first, { lengths: [3, 13, 3, 3] })), invalid(/4 x 12 tokens/));
    const many = { lengths: [1, 1, 1, 1, 1], labels: [0, 0, 0, 0, 0] };
    await t.rejects(send(withFields(first, many)), invalid(/4 x 12 tokens/));
    await send(first);
    await t.rejects(send(first), outOfTurn(/step 0 came, step 1 was expected/));

    const squares = second?.fields["squares"] as Record<string, number>;
    const [name = ""] = Object.keys(squares);
    const { [name]: _, ...without } = squares;
    const tail = { ...squares, "base_model.model.score.weight": 1e9 };
    await t.rejects(send(withFields(second, { squares: without })), invalid(/got 7/));
    await t.rejects(
      send(withFields(second, { squares: tail })),
      invalid(/8 device tensors .* got 9/),
    );
    await t.rejects(
      send(withFields(second, { squares: { ...squares, [name]: -1 } })),
      invalid(/squares/),
    );
    for (const up of [second, third]) await send(up);
    await t.rejects(send(update), outOfTurn(/the device made 4 steps, the coordinator 3/));
    await send(fourth);
    await t.rejects(send(withFields(fourth, { step: 4 })), outOfTurn(/the round has no more/));
    t.equal(await lane.finish(), undefined);
    for (const up of [evaluation, update]) await send(up);
    t.same(await lane.finish(), result, "the same contribution as without all that");
    await t.rejects(send(evaluation), outOfTurn(/after the round's update/));
  },
);

t.test("an announced model is taken field by field, whatever its family", async (t) => {
  for (const family of ["gpt2", "llama"] as const) {
    const task = (await openToy(t, { family })).task();
    t.same(parseTask(JSON.parse(JSON.stringify(task))), task, family);
    const changed = (change: object) => {
      const config = { ...task.manifest.config, ...change };
      return () => parseTask({ ...task, manifest: { ...task.manifest, config } });
    };
    const faults: readonly (readonly [change: object, message: RegExp])[] = [
      [{ layers: 0 }, /manifest\.config\.layers: /],
      [{ heads: "4" }, /manifest\.config\.heads: /],
      [{ family: "mamba" }, /manifest\.config\.family: /],
      [{ surprise: 1 }, /manifest\.config: .*surprise/],
    ];
    for (const [change, message] of faults) {
      t.throws(changed(change), { code: "TASK_INVALID", message }, `${family} ${message}`);
    }
  }
});

t.test(
  "a weight is a whole, capped number of examples, less for a device that stopped",
  async (t) => {
    const toy = await openToy(t);
    const task = toy.task({ cohort: { maximumWeight: 100 } });
    for (const name of ["full", "kd", "split"] as const) {
      const weightOf = async (fields: Record<string, unknown>) => {
        const { lane, receive, ups } = await openRound(toy, task, name);
        for (const up of ups.slice(0, -1)) await receive(up);
        await receive(withFields(ups.at(-1), fields));
        return (await lane.finish())?.weight;
      };
      t.equal(await weightOf({}), 9);
      t.equal(await weightOf({ examples: 1e6 }), 100, `${name}: capped`);
      for (const examples of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e10, "9"]) {
        await t.rejects(weightOf({ examples }), invalid(/examples/), `${name}: ${examples}`);
      }
      await t.rejects(weightOf({ steps: 0 }), invalid(/steps/));
      await t.rejects(weightOf({ steps: 5 }), { code: /WEIGHT_INVALID|OUT_OF_TURN/ });
      // The tail counts a split device's steps itself.
      if (name !== "split") t.equal(await weightOf({ steps: 1 }), 9 / 4, `${name}: one of 4 steps`);
    }
  },
);

t.test("labels that may not leave keep a device from split, at both ends", async (t) => {
  const toy = await openToy(t);
  const board: BoardKey = "pi-zero-2w";
  const memoryOf = (name: string) =>
    protocolOf(name).estimate(toy.task(), { holdOut: 0, cutLayer: 1 }).peakMemoryBytes;
  t.ok(memoryOf("split") < memoryOf("full"));
  const select = (task: Task) =>
    assignDevice(builtInProtocols, task, {
      deviceId: "a",
      profile: boardProfile(board),
      budget: { trainingMemoryBytes: memoryOf("split") },
      holdOut: 0,
      protocols: versions,
    });
  t.match(select(toy.task()).assignment, { protocol: "split", cutLayer: 1 });
  const private_ = toy.task({ labelsMayLeave: false });
  const { assignment, table } = select(private_);
  t.equal(assignment, undefined);
  const texts = table.map(({ text }) => text).filter((text) => text.startsWith("split"));
  t.equal(texts.length, 3, "one for each cut");
  for (const text of texts) t.match(text, /is refused: labels would leave the device/);
  const outer = select(toy.task({ labelsMayLeave: false, split: { uShape: true, tailLayers: 2 } }));
  const cuts = outer.table.filter(({ candidate }) => candidate.protocol === "split");
  t.same(
    cuts.map(({ candidate }) => candidate.cutLayer),
    [1],
    "one block stays in the middle",
  );
  t.notMatch(cuts[0]?.text, /is refused/, "a U-shape keeps its labels");
  t.throws(() => requireAssignment("a", select(private_)), { code: "SELECTION_IMPOSSIBLE" });
  const device: ToyDevice = { id: "a", protocol: "split", cutLayer: 1, train: toyExamples("a", 9) };
  await t.rejects(openFederation(toy, private_, [device]), {
    code: "PROTOCOL_LABELS_WOULD_LEAVE",
  });
  for (const cutLayer of [0, 4, 1.5]) {
    await t.rejects(
      openFederation(toy, toy.task(), [{ ...device, cutLayer }]),
      invalid(/a cut layer from 1 to 3/),
    );
  }
});

t.test("a device gets what both ends have and the task has the data for", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ selection: { order: ["kd", "full", "split"] } });
  const { publicSet: _, ...manifest } = task.manifest;
  const select = (offered: Task, protocols: Record<string, number>) =>
    assignDevice(builtInProtocols, offered, {
      deviceId: "a",
      profile: boardProfile("pi-5"),
      budget: {},
      holdOut: 0,
      protocols,
    });
  const all = versions;
  t.match(select(task, all).assignment, { protocol: "kd", protocolVersion: versions["kd"] });
  const { assignment } = select({ ...task, manifest }, all);
  t.match(assignment, { protocol: "full", reason: /kd is refused: the task has no public set/ });
  t.match(select(task, { kd: 99, split: versions["split"] ?? 0 }).assignment, {
    protocol: "split",
    reason: /speaks version 99 of "kd".*does not have "full"/,
  });
  t.equal(findProtocol(builtInProtocols, "kd", versions["kd"] ?? 0).name, "kd");
  t.throws(() => findProtocol(builtInProtocols, "kd", 99), { code: "PROTOCOL_VERSION_MISMATCH" });
  t.throws(() => findProtocol(builtInProtocols, "dfl", 1), {
    code: "PROTOCOL_UNKNOWN",
    message: /this end has full, kd, split/,
  });
});

t.test("a device refuses answers that are not those of its step", async (t) => {
  const toy = await openToy(t);
  const task = toy.task();
  const protocol = protocolOf("split");
  const { engine, model, publicSet } = toy;
  const assignment = {
    deviceId: "a",
    protocol: "split",
    protocolVersion: 1,
    cutLayer: 2,
    reason: "",
  };
  const shared = { task, engine, model, log: () => {} };
  const client = await protocol.createClient({
    ...shared,
    deviceId: "a",
    assignment,
    train: toyExamples("a", 9),
    holdOut: toyExamples("hold-out", 4),
    publicSet: async () => publicSet,
    state: { read: async () => undefined, stage: async () => {} },
    rows: rowsInMemory(),
  });
  const place = { publicSet, rowsOf: rowsInMemory, after: () => () => {} };
  const server = await protocol.createServer({ ...shared, ...place });
  const roundWith = async (change: (answer: Payload) => Payload) => {
    const lane = await server.openLane(assignment, info, { round: 0, parameters: initialOf(task) });
    const ask = async (up: Payload) => change((await lane.receive(up, signal)) as Payload);
    return client.runRound(info, lane.first, { send: async () => {}, ask }, signal);
  };
  const evaluation: Payload = { kind: "logits", fields: {}, tensors: new Map() };
  const ofShape =
    (...shape: number[]) =>
    (answer: Payload) => ({
      ...answer,
      tensors: new Map(
        [...answer.tensors].map(([name, tensor]) => [name, { ...tensor, shape }] as const),
      ),
    });
  t.match(await roundWith((answer) => answer), { steps: 4 });
  for (const [change, code] of [
    [(answer: Payload) => withFields(answer, { step: 7 }), "PROTOCOL_OUT_OF_TURN"],
    [() => evaluation, "PROTOCOL_OUT_OF_TURN"],
    [ofShape(4, 12, 31), "PROTOCOL_SHAPE_MISMATCH"],
    [
      (answer: Payload) => (answer.kind === "logits" ? ofShape(2, 4)(answer) : answer),
      "PROTOCOL_SHAPE_MISMATCH",
    ],
  ] as const) {
    await t.rejects(roundWith(change), { code });
  }
  await client.close();
  await server.close();
});
