// Asynchronous federations over a real broker: devices that wait for nobody, updates that count less the older they are,
// and a coordinator that dies between them.
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import type { JournalRecord } from "../../apps/coordinator/journal.ts";
import { decodeEnvelope } from "../../broker/index.ts";
import { decodeTensor } from "../../protocols/index.ts";
import { type Parameters, readParameterFile } from "../../runtime/index.ts";
import { startHop } from "../broker/network.ts";
import {
  coordinatorOf,
  deviceHere,
  freePort,
  journaled,
  type KilledRun,
  kill,
  recordsOf,
} from "./killed-run.ts";
import { federate, makeWorld, type SmallDevice, writeTask } from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
const run = (name: string) => join(root, "runs", name);
await mkdir(run(""), { recursive: true });

type RecordOf<Kind extends JournalRecord["kind"]> = Extract<JournalRecord, { kind: Kind }>;
const ofKind = <Kind extends JournalRecord["kind"]>(
  records: readonly JournalRecord[],
  kind: Kind,
) => records.filter((record): record is RecordOf<Kind> => record.kind === kind);
const nameOf = ({ deviceId, lane }: { readonly deviceId: string; readonly lane: number }) =>
  `${deviceId} ${lane}`;

t.test(
  "one device and a buffer of one are the synchronous federation, byte for byte",
  async (t) => {
    const training = { rounds: 3 };
    const devices: readonly SmallDevice[] = [{ id: "a" }];
    const together = await writeTask(world, "together", { training });
    const alone = await writeTask(world, "alone", { training, asynchronous: { buffer: 1 } });
    const synchronous = await federate(world, { task: together, run: run("together"), devices });
    const asynchronous = await federate(world, { task: alone, run: run("alone"), devices });
    t.ok(asynchronous.adapter.equals(synchronous.adapter));
    const closed = ofKind(asynchronous.records, "closed");
    t.same(
      closed.map(({ updates }) => updates),
      [1, 2, 3].map((round) => [{ deviceId: "a", lane: round, round, staleness: 0 }]),
    );
    const { records } = synchronous;
    t.same(
      ofKind(records, "scored").map(({ accuracy }) => accuracy),
      ofKind(asynchronous.records, "scored").map(({ accuracy }) => accuracy),
    );
    t.same(await readdir(join(run("alone"), "journal", "uploads")), []);
  },
);

t.test("a round is sum(s(tau) * delta) / K of its updates", async (t) => {
  const settings = {
    training: { rounds: 4 },
    full: { encoding: "float32" },
    asynchronous: { buffer: 2 },
    cohort: { minimumDevices: 3 },
  };
  const task = await writeTask(world, "formula", settings);
  const folder = run("formula");
  const deltas = new Map<string, Promise<Parameters>>();
  const { records, log } = await federate(world, {
    task,
    run: folder,
    devices: [{ id: "a" }, { id: "b" }, { id: "c" }],
    // Uploads are forgotten when their round closes.
    onEvent: (event) => {
      if (event.kind === "reported") keepDeltas(folder, deltas);
    },
  });
  const began = new Map(ofKind(records, "lane").map((lane) => [nameOf(lane), lane.round]));
  const closed = ofKind(records, "closed");
  t.equal(closed.length, 4);
  const folded = closed.flatMap(({ updates = [] }) => updates.map(nameOf));
  t.equal(new Set(folded).size, 8, "two a round, none twice");
  t.same(
    folded,
    folded.filter((name) => began.has(name)),
  );
  let checked = 0;
  for (const { round, updates = [] } of closed) {
    for (const update of updates)
      t.equal(update.staleness, round - (began.get(nameOf(update)) ?? 0), nameOf(update));
    if (round === 1) continue;
    const stale = updates.map(async (update) => {
      return { delta: await deltas.get(nameOf(update)), staleness: update.staleness };
    });
    const steps = await Promise.all(stale);
    const [before, after] = [await checkpoint(folder, round - 1), await checkpoint(folder, round)];
    for (const [name, { data }] of after) {
      const wanted = stepped(before, name, steps);
      // One rounding of the mean and one of the sum, in float32.
      const isClose = (value: number, i: number) =>
        Math.abs(value - (wanted[i] ?? 0)) <= 2e-7 * Math.max(1, Math.abs(wanted[i] ?? 0));
      t.ok(data.every(isClose), `${name} of round ${round}`);
      checked += data.length;
    }
  }
  t.ok(checked > 1000, `${checked} values`);
  t.equal(log.filter((line) => line.endsWith("the task is finished")).length, 3);
});

t.test(
  "an update that is too stale is dropped, and its device told and started again",
  async (t) => {
    // Whoever comes second has missed the round that the first one made; rounds enough for a slow start of either.
    const rounds = 12;
    const settings = {
      training: { rounds },
      asynchronous: { buffer: 1, maxStaleness: 0 },
      cohort: { minimumDevices: 2 },
    };
    const task = await writeTask(world, "stale", settings);
    const devices = [{ id: "a" }, { id: "b" }];
    const { records, events, log } = await federate(world, { task, run: run("stale"), devices });
    const dropped = ofKind(records, "dropped");
    t.ok(dropped.length > 0);
    const folded = new Set(
      ofKind(records, "closed").flatMap(({ updates = [] }) => updates.map(nameOf)),
    );
    t.equal(folded.size, rounds);
    for (const update of dropped)
      t.notOk(folded.has(nameOf(update)), `${nameOf(update)} counts nowhere`);
    const [first] = dropped;
    t.ok(events.some((event) => event.kind === "dropped" && event.deviceId === first?.deviceId));
    const wasStartedAgain = ofKind(records, "lane").some(
      ({ deviceId, lane }) => deviceId === first?.deviceId && lane === (first?.lane ?? 0) + 1,
    );
    if (wasStartedAgain)
      t.match(
        log.join("\n"),
        new RegExp(
          `${first?.deviceId}: the last update is not counted: ${first?.staleness} rounds`,
        ),
      );
    const metrics = (await readFile(join(run("stale"), "metrics.jsonl"), "utf8"))
      .trim()
      .split("\n");
    const lines = metrics.map((line) => JSON.parse(line)).filter(({ kind }) => kind === "device");
    t.equal(lines.filter(({ isAccepted }) => isAccepted).length, rounds);
    t.ok(lines.some(({ isAccepted, staleness }) => !isAccepted && staleness >= 1));
  },
);

t.test(
  "a device whose wire is cut holds nobody up, and its update counts when it comes",
  async (t) => {
    const settings = { training: { rounds: 6 }, asynchronous: { buffer: 1 } };
    const task = await writeTask(world, "uneven", settings);
    const folder = run("uneven");
    let hop: Awaited<ReturnType<typeof startHop>> | undefined;
    let closedMeanwhile = 0;
    const { records } = await federate(world, {
      task,
      run: folder,
      devices: [{ id: "quick" }],
      addressFor: async (url) => {
        const slowHop = await startHop(Number(new URL(url).port));
        hop = slowHop;
        const address = `mqtt://127.0.0.1:${slowHop.port}`;
        await new Promise<void>((resolve) => {
          const onLine = (line: string): void => {
            if (!line.startsWith("round 1: full")) return;
            slowHop.cut();
            resolve();
          };
          void deviceHere(t, { world, task, folder }, { id: "slow" }, { address, onLine });
        });
        return url;
      },
      onEvent: ({ kind }) => {
        if (kind === "closed") closedMeanwhile += 1;
        if (kind === "closed" && closedMeanwhile === 3) hop?.restore();
      },
    });
    await hop?.close();
    const folded = ofKind(records, "closed").flatMap(({ updates = [] }) => updates);
    t.same(folded.slice(0, 3).map(nameOf), ["quick 1", "quick 2", "quick 3"]);
    const late = folded.find(({ deviceId }) => deviceId === "slow");
    // Whether it is back before the quick one has made the last round is for its back-off to say.
    if (late) t.ok(late.staleness >= 3, `${late.staleness} rounds late`);
  },
);

t.test("a coordinator killed with updates in its buffer folds each of them once", async (t) => {
  const settings = {
    training: { rounds: 3 },
    asynchronous: { buffer: 3 },
    cohort: { minimumDevices: 2 },
  };
  const task = await writeTask(world, "killed", settings);
  const killed = { world, task, folder: run("killed") };
  const port = await freePort();
  const place = ["--anonymous", "--listen", `mqtt://127.0.0.1:${port}`];
  const devices = ["a", "b"].map((id) =>
    deviceHere(t, killed, { id }, { address: `mqtt://127.0.0.1:${port}` }),
  );
  // Once with one update waiting, once with a round closed and another one begun.
  await killOnce(t, killed, place, ({ kind }) => kind === "buffered");
  await killOnce(t, killed, place, (record) => record.kind === "buffered" && record.round === 2);
  const { status, stdout, stderr } = await coordinatorOf(t, killed, place).finished;
  t.equal(status, 0, stderr);
  t.match(JSON.parse(stdout), { rounds: 3 });
  await Promise.all(devices);
  const records = await recordsOf(killed.folder);
  const closed = ofKind(records, "closed");
  t.same(
    closed.map(({ round, updates }) => [round, updates?.length]),
    [
      [1, 3],
      [2, 3],
      [3, 3],
    ],
  );
  const promised = ofKind(records, "buffered");
  t.equal(new Set(promised.map(nameOf)).size, promised.length, "no upload has two places");
  for (const { round, updates = [] } of closed) {
    const places = promised.filter((update) => update.round === round).map(nameOf);
    t.same(
      updates.map(nameOf).toSorted(),
      places.toSorted(),
      `round ${round} is what was promised`,
    );
  }
  // A lane that asks to catch up has two messages.
  const messages = ofKind(records, "upload").map((one) => `${nameOf(one)} ${one.sequence}`);
  t.equal(new Set(messages).size, messages.length, "nothing was uploaded twice");
  const uploads = ofKind(records, "upload").map(nameOf);
  for (const { kind: _, ...update } of promised.filter(({ round }) => round <= 3))
    t.ok(uploads.includes(nameOf(update)));
});

/** theta + sum(delta / sqrt(1 + tau)) / K of one tensor, in float64. */
function stepped(
  theta: Parameters,
  name: string,
  updates: readonly { readonly delta: Parameters | undefined; readonly staleness: number }[],
): Float64Array {
  return Float64Array.from(theta.get(name)?.data ?? [], (value, i) => {
    const steps = updates.map(
      ({ delta, staleness }) =>
        (delta?.get(name)?.data[i] ?? Number.NaN) / Math.sqrt(1 + staleness),
    );
    return value + steps.reduce((sum, step) => sum + step, 0) / updates.length;
  });
}

/** Runs the coordinator until its journal holds a record that fits, then kills it. */
async function killOnce(
  t: Test,
  killed: KilledRun,
  place: readonly string[],
  fits: (record: JournalRecord) => boolean,
): Promise<void> {
  const running = coordinatorOf(t, killed, place);
  await journaled(killed.folder, fits);
  await kill(running);
}

/** Reads the uploads that are there, by device and lane; at once, for they are forgotten when their round closes. */
function keepDeltas(folder: string, deltas: Map<string, Promise<Parameters>>): void {
  const uploads = join(folder, "journal", "uploads");
  // What is still being written beside has another ending.
  for (const file of readdirSync(uploads).filter((name) => name.endsWith(".envelope"))) {
    const [, , deviceId, lane] = file.split("-");
    const key = `${deviceId} ${lane}`;
    if (!deltas.has(key)) deltas.set(key, deltaOf(readFileSync(join(uploads, file))));
  }
}

async function deltaOf(bytes: Buffer): Promise<Parameters> {
  const { tensors } = await decodeEnvelope(bytes);
  return new Map([...tensors].map(([name, tensor]) => [name, decodeTensor(tensor, name)]));
}

function checkpoint(folder: string, round: number): Promise<Parameters> {
  return readParameterFile(join(folder, "checkpoints", `round-000${round}.safetensors`));
}
