// The coordinator's parts: what a journal says, when a round is decided, who may take part.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import type { RunEvent } from "../../apps/coordinator/events.ts";
import { type FleetListener, openFleet } from "../../apps/coordinator/fleet.ts";
import { type JournalRecord, openJournal, readJournal } from "../../apps/coordinator/journal.ts";
import { prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { positionOf } from "../../apps/coordinator/recovery.ts";
import { createRoundChanges } from "../../apps/coordinator/round-changes.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { openDeviceState } from "../../apps/device/client-state.ts";
import {
  announcePresence,
  createLink,
  createMemoryHub,
  deviceLinkTopics,
  type Envelope,
  type Reply,
  topicsOf,
} from "../../broker/index.ts";
import { boardProfile } from "../../devices/index.ts";
import {
  advance,
  assignDevice,
  builtInProtocols,
  decide,
  openRound,
  taskFingerprint,
} from "../../protocols/index.ts";
import { float32 } from "../../runtime/index.ts";
import { makeWorld, writeTask } from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
const taskFile = await writeTask(world, "task");
const { task } = await prepareTask(await readTaskFile(taskFile), world.cacheFolder);

/** Journal lines as the coordinator writes them. */
const lines = {
  round: (round: number, attempt = 1): JournalRecord => ({ kind: "round", round, attempt }),
  lane: (deviceId: string, lane: number, round: number, attempt = 1): JournalRecord => {
    const assignment = { deviceId, protocol: "full", protocolVersion: 1, reason: "full" };
    return { kind: "lane", round, attempt, lane, deviceId, assignment, resumable: true };
  },
  upload: (deviceId: string, lane: number): JournalRecord => {
    return { kind: "upload", deviceId, lane, sequence: 1, file: `${deviceId}-${lane}` };
  },
  closed: (round: number, accepted: Record<string, number>): JournalRecord => {
    return { kind: "closed", round, attempt: 1, accepted, seconds: 1 };
  },
};

t.test("an empty journal begins at the first round", async (t) => {
  t.match(positionOf([]), { round: 1, attempt: 1, isInterrupted: false });
});

t.test("a round that was begun is gone on with, its lanes and uploads known", async (t) => {
  const { round, lane, upload, closed } = lines;
  const position = positionOf([
    round(1),
    lane("a", 1, 1),
    upload("a", 1),
    closed(1, { a: 1 }),
    round(2),
    lane("a", 2, 2),
    lane("b", 1, 2),
    upload("b", 1),
  ]);
  t.match(position, { round: 2, attempt: 1, isInterrupted: true });
  const uploads = [...position.lanes].map(([id, known]) => [
    id,
    known.lane,
    known.uploads.map(({ file }) => file),
  ]);
  t.same(uploads, [
    ["a", 2, []],
    ["b", 1, ["b-1"]],
  ]);
  t.same(
    [...position.lastLanes],
    [
      ["a", 2],
      ["b", 1],
    ],
  );
  t.same([...position.acceptedLanes], [["a", 1]]);
});

t.test("after a closed round the next one begins with nothing", async (t) => {
  const { round, lane, upload, closed } = lines;
  const position = positionOf([round(1), lane("a", 1, 1), upload("a", 1), closed(1, { a: 1 })]);
  t.match(position, { round: 2, attempt: 1, isInterrupted: false, unaware: ["a"] });
  t.equal(position.lanes.size, 0);
});

t.test(
  "a round that asks some asks the same ones after a restart, and the next one others",
  async (t) => {
    const { lane, closed } = lines;
    const round = (number: number, cohort: readonly string[]): JournalRecord => {
      return { kind: "round", round: number, attempt: 1, cohort };
    };
    const begun = [
      round(1, ["a", "b"]),
      lane("a", 1, 1),
      closed(1, { a: 1 }),
      round(2, ["b", "c"]),
    ];
    t.match(positionOf(begun), { round: 2, isInterrupted: true, cohort: ["b", "c"] });
    const ended = positionOf([...begun, lane("c", 1, 2), closed(2, { c: 1 })]);
    t.equal(ended.cohort, undefined);
    t.same(ended.unaware, ["a", "c"], "a was not asked at last, and waits for the end as well");
  },
);

t.test("an asynchronous run goes on with its lanes and with what it had buffered", async (t) => {
  const { round, lane, upload } = lines;
  const buffered = (deviceId: string, number: number, into: number): JournalRecord => {
    return { kind: "buffered", deviceId, lane: number, round: into, staleness: 0 };
  };
  const updates = [{ deviceId: "a", lane: 1, round: 1, staleness: 0 }];
  const position = positionOf(
    [
      round(1),
      lane("a", 1, 1),
      lane("b", 1, 1),
      lane("c", 1, 1),
      upload("a", 1),
      buffered("a", 1, 1),
      lane("a", 2, 1),
      {
        kind: "closed",
        round: 1,
        attempt: 1,
        accepted: { a: 1 },
        updates,
        seconds: 1,
      },
      round(2),
      upload("c", 1),
      { kind: "dropped", deviceId: "c", lane: 1, staleness: 1 },
      upload("a", 2),
      buffered("a", 2, 2),
    ],
    { isAsynchronous: true },
  );
  t.match(position, { round: 2, attempt: 1, isInterrupted: true });
  t.same([...position.lanes.keys()], ["b"], "a has delivered, c was dropped");
  t.equal(position.lanes.get("b")?.round, 1, "it began in the round before");
  t.match(position.buffer, [{ recorded: { deviceId: "a", lane: 2 }, update: { round: 2 } }]);
  t.match(position.buffer[0]?.recorded.uploads, [{ file: "a-2" }]);
  t.same(
    [...position.acceptedLanes],
    [["a", 2]],
    "what is buffered counts, what was dropped never",
  );
  t.same([...position.lastLanes.values()], [2, 1, 1]);
});

t.test("devices know of the end once the journal says so", async (t) => {
  const ended = [lines.round(1), lines.lane("a", 1, 1), lines.closed(1, { a: 1 })];
  t.same(positionOf(ended).unaware, ["a"]);
  t.same(positionOf([...ended, { kind: "finished" }]).unaware, []);
});

t.test("a lane opened again counts alone; numbers never fall back", async (t) => {
  const { round, lane, upload, closed } = lines;
  const replaced = positionOf([round(1), lane("a", 1, 1), lane("a", 2, 1), upload("a", 1)]);
  t.match(replaced.lanes.get("a"), { lane: 2, uploads: [] });
  const reopened = positionOf([round(1), lane("a", 1, 1), upload("a", 1), round(1, 2)]);
  t.match(reopened, { round: 1, attempt: 2, isInterrupted: true });
  t.equal(reopened.lanes.size, 0);
  t.equal(reopened.lastLanes.get("a"), 1);
  // A device that came while the round was being closed.
  const late = positionOf([round(1), lane("a", 1, 1), closed(1, { a: 1 }), lane("b", 7, 1)]);
  t.equal(late.lanes.size, 0);
  t.equal(late.lastLanes.get("b"), 7);
});

t.test("a torn last line is cut off before the journal goes on", async (t) => {
  const file = join(t.testdir(), "records.jsonl");
  const whole = `${JSON.stringify(lines.round(1))}\n`;
  await writeFile(file, `${whole}{"kind":"lane","dev`);
  const journal = await openJournal(file);
  t.same(journal.records, [lines.round(1)]);
  await Promise.all([journal.append(lines.lane("ä", 1, 1)), journal.append(lines.upload("ä", 1))]);
  await journal.close();
  t.same(await readJournal(file), [lines.round(1), lines.lane("ä", 1, 1), lines.upload("ä", 1)]);
  t.ok((await readFile(file, "utf8")).startsWith(whole));
});

t.test("the deadline counts what is there, then decides", async (t) => {
  const changes = createRoundChanges();
  let state = advance(openRound(1), { kind: "joined", deviceId: "a" });
  const decision = await changes.decision({
    decide: (deadlinePassed) => decide(state, { minimumDevices: 1, deadlinePassed }),
    beforeDeadline: async () => {
      state = advance(state, { kind: "delivered", deviceId: "a" });
    },
    deadlineMs: 1,
    signal: new AbortController().signal,
  });
  t.same(decision, { kind: "close", accepted: ["a"] });
});

t.test("a stopped run waits for no round", async (t) => {
  const stop = new AbortController();
  const waiting = createRoundChanges().decision({
    decide: () => ({ kind: "wait" }),
    beforeDeadline: async () => {},
    deadlineMs: 600_000,
    signal: stop.signal,
  });
  stop.abort(new Error("enough"));
  await t.rejects(waiting, { message: "enough" });
});

t.test("two words of the same accepted lane commit its state once", async (t) => {
  const state = await openDeviceState(t.testdir(), () => {});
  const kept = new Map([["residual", float32([2], [1, 2])]]);
  await state.forLane(3).stage(kept);
  t.equal(await state.forLane(3).read(), undefined);
  await Promise.all([state.settle(3), state.settle(3)]);
  t.same(await state.forLane(4).read(), kept);
  await state.forLane(4).stage(new Map([["residual", float32([2], [3, 4])]]));
  await state.settle(3);
  t.same(await state.forLane(5).read(), kept, "a lane that was not accepted changes nothing");
});

/** What a device answers; the defaults make it fit. */
interface Answers {
  readonly description?: Readonly<Record<string, unknown>>;
  readonly ready?: Readonly<Record<string, unknown>>;
  readonly onPrepare?: () => Promise<void>;
}

t.test("a device of another version is refused, and both logs say why", async (t) => {
  const { refused, told } = await refusalOf(t, {
    description: { protocols: { full: 99, split: 1, kd: 1 } },
  });
  const text = /speaks version 99 of "full", the coordinator \d+/;
  t.match(refused, { deviceId: "pi", code: "SELECTION_IMPOSSIBLE", message: text, hint: /limits/ });
  const { code, message, hint } = refused;
  t.same(told.fields, { code, message, hint });
});

t.test("a device that misunderstands is refused with its id and field", async (t) => {
  const other = await refusalOf(t, { ready: { fingerprint: "0".repeat(64) } });
  t.match(other.refused, { code: "TASK_INVALID", message: /device pi .*another task/ });
  const profile = await refusalOf(t, { description: { profile: { cores: -1 } } });
  t.match(profile.refused, { code: "PROFILE_INVALID", message: /device pi: profile: .*cores/ });
  const fields = await refusalOf(t, { description: { protocols: { full: "new" } } });
  t.match(fields.refused, {
    code: "PROTOCOL_PAYLOAD_INVALID",
    message: /"description": protocols/,
  });
});

t.test("what a device says before it is brought in waits until it is", async (t) => {
  const order: string[] = [];
  let reported: Promise<Envelope> | undefined;
  const { fleet, link, present } = await meet(t, {
    onPrepare: async () => {
      // As after a restart of the coordinator: the device still waits for an answer to its report.
      reported = link().request({ kind: "report", lane: 1 });
      order.push("asked");
    },
  });
  const taken = new Promise<void>((resolve) => {
    const listener: FleetListener = {
      onReady: ({ id }) => order.push(`${id} is ready`),
      onGone: () => {},
      onRequest: async (id, { kind }) => {
        order.push(`${kind} of ${id}`);
        resolve();
        return { kind: "noted" };
      },
    };
    fleet.listen(listener);
  });
  await present();
  await taken;
  t.match(await reported, { kind: "noted" });
  t.same(order, ["asked", "pi is ready", "report of pi"]);
});

/** A fleet and one device that is not there yet. */
async function meet(t: Test, { description, ready, onPrepare }: Answers) {
  const hub = createMemoryHub();
  t.teardown(() => hub.close());
  const federation = "main";
  const log = () => {};
  const events: RunEvent[] = [];
  const told: Envelope[] = [];
  let onTold = () => {};
  const refusal = new Promise<void>((resolve) => {
    onTold = resolve;
  });
  const fleet = await openFleet({
    transport: await hub.connect({ clientId: "coordinator" }),
    federation,
    task,
    assign: (offer) =>
      assignDevice(
        builtInProtocols.filter(({ name }) => name === "full"),
        task,
        offer,
      ),
    incomingFolder: join(t.testdirName, "incoming"),
    supplies: { answer: async () => undefined },
    onEvent: (event) => events.push(event),
    log,
  });
  const versions = Object.fromEntries(builtInProtocols.map(({ name, version }) => [name, version]));
  const profile = boardProfile("pi-5");
  const answer = async (request: Envelope): Promise<Reply> => {
    if (request.kind === "describe") {
      const fields = { profile, budget: {}, protocols: versions, ...description };
      return { kind: "description", fields };
    }
    if (request.kind === "prepare") {
      await onPrepare?.();
      const fingerprint = taskFingerprint(task);
      return {
        kind: "ready",
        fields: { examples: 4, holdOut: 0, hasModel: true, fingerprint, ...ready },
      };
    }
    told.push(request);
    onTold();
    return { kind: request.kind };
  };
  const transport = await hub.connect({ clientId: "pi" });
  const topics = deviceLinkTopics(federation, "pi");
  const peers = { self: "pi", peer: "coordinator" };
  const link = await createLink({
    transport,
    federation,
    ...peers,
    ...topics,
    onRequest: answer,
    log,
  });
  const present = async (): Promise<void> => {
    const topic = topicsOf(federation).device("pi", "status");
    const identity = { topic, instance: "0123456789abcdef", counter: 1, version: "1" };
    const presence = await announcePresence({ transport, identity, onReplaced: () => {}, log });
    t.teardown(async () => {
      await presence.close();
      await link.close();
      await fleet.close();
    });
  };
  return { fleet, events, told, refusal, link: () => link, present };
}

/** What becomes of a device that answers so. */
async function refusalOf(t: Test, answers: Answers) {
  const { events, told, refusal, present } = await meet(t, answers);
  await present();
  await refusal;
  const refused = events.find((event) => event.kind === "refused");
  if (!refused || !told[0]) throw new Error("the device was not refused");
  return { refused, told: told[0] };
}
