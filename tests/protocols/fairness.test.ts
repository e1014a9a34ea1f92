// Lanes at once: who gets the engine when one device sends more than the others.
import { setImmediate as nextTurn } from "node:timers/promises";
import t, { type Test } from "tap";
import { createLaneInbox, type Envelope, type LaneInbox } from "../../broker/index.ts";
import {
  type AnyProtocol,
  batchShape,
  builtInProtocols,
  initialOf,
  type Lane,
  modelSpec,
  type Payload,
  rowsInMemory,
} from "../../protocols/index.ts";
import { type Engine, loadPredictor, predictAll } from "../../runtime/index.ts";
import { openFederation, type ToyDevice } from "./loopback.ts";
import { openToy, type Toy, toyExamples } from "./toy.ts";

const split = builtInProtocols.find(({ name }) => name === "split") as AnyProtocol;
const ids = ["a", "b", "c"];
const { signal } = new AbortController();

/** An engine that takes calls in the order in which they come, each when the test says. */
function heldEngine(inner: Engine) {
  const queue: (() => Promise<void>)[] = [];
  const engine: Engine = {
    ...inner,
    load: async (graph, options) => {
      const session = await inner.load(graph, options);
      const run: typeof session.run = (feeds, outputs) =>
        new Promise((resolve, reject) => {
          queue.push(() => session.run(feeds, outputs).then(resolve, reject));
        });
      return { ...session, run };
    },
  };
  return {
    engine,
    queue,
    /** Does the first call, and lets everyone go on as far as they get. */
    serve: async () => {
      await queue.shift()?.();
      for (let i = 0; i < 3; i++) await nextTurn();
    },
  };
}

/** What each device sends in a round of four steps. */
async function messagesOf(toy: Toy): Promise<ReadonlyMap<string, readonly Payload[]>> {
  const devices = ids.map((id): ToyDevice => {
    return { id, protocol: "split", cutLayer: 2, train: toyExamples(id, 9) };
  });
  const federation = await openFederation(toy, toy.task(), devices);
  const round = await federation.round(federation.start);
  await federation.close();
  return new Map(ids.map((id) => [id, round.devices.get(id)?.ups ?? []]));
}

/** Lanes of one coordinator end over a held engine. */
async function openLanes(t: Test, toy: Toy) {
  const held = heldEngine(toy.engine);
  const task = toy.task();
  const { model, publicSet } = toy;
  const { engine } = held;
  const place = { task, engine, model, publicSet, rowsOf: rowsInMemory, log: () => {} };
  const server = await split.createServer({ ...place, after: () => () => {} });
  t.teardown(() => server.close());
  const open = (deviceId: string, lane = 1) => {
    const { version: protocolVersion } = split;
    const way = { deviceId, protocol: "split", protocolVersion, cutLayer: 2, reason: "" };
    const info = { round: 1, attempt: 1, lane, globalStep: 0, acceptedLane: 0 };
    return server.openLane(way, info, { round: 0, parameters: initialOf(task) });
  };
  return { ...held, open };
}

/** Hands a device's message to its lane as a coordinator does. */
function post(inbox: LaneInbox, lane: Lane<Payload, Payload>, up: Payload, laneSequence: number) {
  const { kind, fields, tensors } = up;
  const place = { round: 1, attempt: 1, lane: 1 };
  const message = { laneSequence, payload: { kind, fields } };
  const envelope = { ...place, kind: "lane", fields: message, tensors, blobs: new Map() };
  return inbox.accept(envelope as unknown as Envelope, (payload) =>
    lane.receive(split.parseUp(payload), signal),
  );
}

t.test("a device that sends all its steps at once gets no more than its turn", async (t) => {
  const toy = await openToy(t);
  const messages = await messagesOf(toy);
  const { queue, serve, open } = await openLanes(t, toy);
  const served: string[] = [];
  const send = async (id: string, isFlood: boolean) => {
    const lane = await open(id);
    const inbox = createLaneInbox(id);
    inbox.open({ round: 1, attempt: 1, lane: 1 });
    const steps = (messages.get(id) ?? []).slice(0, 4);
    const answers: Promise<unknown>[] = [];
    for (const [i, up] of steps.entries()) {
      const answer = post(inbox, lane, up, i + 1).then(() => served.push(id));
      answers.push(answer);
      if (!isFlood) await answer;
    }
    await Promise.all(answers);
  };
  const sending = [send("a", true), send("b", false), send("c", false)];
  for (let i = 0; i < 3; i++) await nextTurn();
  for (let call = 0; call < 12; call++) {
    t.ok(queue.length <= 3, "a call of each lane waits at most");
    await serve();
  }
  await Promise.all(sending);
  t.equal(served.join(""), "abcabcabcabc");
});

t.test("a long job at the engine is one call in each turn", async (t) => {
  const toy = await openToy(t);
  const messages = await messagesOf(toy);
  const { engine, queue, serve, open } = await openLanes(t, toy);
  const task = toy.task();
  const predictor = await loadPredictor(engine, modelSpec(task, toy.model));
  // Twelve batches of four.
  const scoring = predictAll(predictor, initialOf(task), toyExamples("test", 48), batchShape(task));
  const lane = await open("a");
  let steps = 0;
  const training = (async () => {
    for (const up of (messages.get("a") ?? []).slice(0, 4)) {
      await lane.receive(split.parseUp(up), signal);
      steps += 1;
    }
  })();
  await nextTurn();
  for (let call = 0; call < 8; call++) {
    t.equal(queue.length, 2, "one of each");
    await serve();
  }
  await training;
  t.equal(steps, 4);
  while (queue.length > 0) await serve();
  t.equal((await scoring).length, 96);
});

t.test("a device that begins lane after lane has one piece of work at the engine", async (t) => {
  const toy = await openToy(t);
  const [first] = (await messagesOf(toy)).get("a") ?? [];
  const { queue, serve, open } = await openLanes(t, toy);
  const lane = await open("a");
  const answer = lane.receive(split.parseUp(first as Payload), signal);
  await nextTurn();
  let isClosed = false;
  const closing = lane.close().then(() => {
    isClosed = true;
  });
  await nextTurn();
  t.same([queue.length, isClosed], [1, false], "its next lane is opened behind this");
  await serve();
  await Promise.all([answer, closing]);
  t.equal(isClosed, true);
});

t.test("the engine's queue is first come, first served, over all its sessions", async (t) => {
  const toy = await openToy(t);
  const members = await Promise.all(
    [2, 3].map(async (rank) => {
      const task = toy.task({ adapter: { rank, alpha: 4, targets: ["c_attn"] } });
      return { task, predictor: await loadPredictor(toy.engine, modelSpec(task, toy.model)) };
    }),
  );
  const texts = toyExamples("test", 4);
  const ended: number[] = [];
  const calls = [0, 1, 1, 0, 1, 0].map(async (which, call) => {
    const { task, predictor } = members[which] as (typeof members)[number];
    await predictAll(predictor, initialOf(task), texts, batchShape(task));
    ended.push(call);
  });
  await Promise.all(calls);
  t.same(ended, [0, 1, 2, 3, 4, 5]);
});
