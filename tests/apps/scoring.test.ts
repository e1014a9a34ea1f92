// A round's score leaves the critical path: it comes while the devices train on, in the order of rounds, and a coordinator
// killed at any moment neither loses nor doubles one.
import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import {
  type ClosedRecord,
  type JournalRecord,
  openJournal,
  readJournal,
  type ScoredRecord,
} from "../../apps/coordinator/journal.ts";
import { openMetrics } from "../../apps/coordinator/metrics.ts";
import { openScoring } from "../../apps/coordinator/scoring.ts";
import { startBroker } from "../../broker/index.ts";
import type { Score } from "../../runtime/index.ts";
import { coordinatorOf, deviceHere, journaled, kill, recordsOf } from "./killed-run.ts";
import {
  adapterOf,
  federate,
  makeWorld,
  smallTexts,
  tableOf,
  writeTask,
} from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
const run = (name: string) => join(root, "runs", name);
await mkdir(run(""), { recursive: true });
// Seconds of scoring beside rounds of a tenth of one.
await writeFile(join(root, "many.csv"), tableOf(smallTexts("many", 4000)));
const settings = {
  cohort: { minimumDevices: 2 },
  data: { test: "many.csv", public: "public.csv" },
  training: { rounds: 3 },
};
const task = await writeTask(world, "scored", settings);
const devices = [{ id: "a" }, { id: "b" }];
const undisturbed = await federate(world, { task, run: run("whole"), devices });

const closedOf = (round: number): ClosedRecord => {
  return { kind: "closed", round, attempt: 1, accepted: { a: round }, seconds: 1 };
};
const scoredOf = (round: number): ScoredRecord => {
  return { kind: "scored", round, accuracy: 0.5, scoringSeconds: 1 };
};
const parameters = new Map();

t.test("devices begin the next round before the last one is scored", async (t) => {
  const order = undisturbed.events.flatMap((event) =>
    event.kind === "closed" || event.kind === "scored" || event.kind === "started"
      ? [`${event.kind}${"round" in event ? ` ${event.round}` : ` ${event.lane}`}`]
      : [],
  );
  const placeOf = (what: string) => order.indexOf(what);
  for (const round of [1, 2]) {
    t.ok(placeOf(`closed ${round}`) < placeOf(`started ${round + 1}`));
    t.ok(placeOf(`started ${round + 1}`) < placeOf(`scored ${round}`), order.join(", "));
    t.ok(placeOf(`scored ${round}`) < placeOf(`closed ${round + 1}`), "one at a time");
  }
  t.equal(order.at(-1), "scored 3");
  t.same(roundsOf(undisturbed.records, "scored"), [1, 2, 3], "the last one is scored once");
  const last = undisturbed.records.findLast(({ kind }) => kind === "scored");
  t.match(last, { accuracy: undisturbed.result.accuracy });
});

t.test("a round's line says what it was worth and what its parts took", async (t) => {
  const lines = await linesOf(run("whole"));
  t.same(
    lines.map(({ kind, round }) => `${kind} ${round}`),
    [1, 2, 3].flatMap((round) => [`device ${round}`, `device ${round}`, `round ${round}`]),
  );
  for (const line of lines.filter(({ kind }) => kind === "round")) {
    t.ok(Number(line["coordinationSeconds"]) < Number(line["seconds"]));
    t.ok(Number(line["scoringSeconds"]) > 0);
  }
});

for (const moment of ["closed", "round", "scored"] as const) {
  t.test(`a coordinator killed when it wrote "${moment}" scores every round once`, async (t) => {
    const broker = await startBroker({ log: () => {} });
    t.teardown(() => broker.close());
    const killed = { world, task, folder: run(`killed-${moment}`) };
    const place = ["--broker", broker.url];
    const first = coordinatorOf(t, killed, place);
    const ended = devices.map((one) => deviceHere(t, killed, one, { address: broker.url }));
    const wanted = moment === "round" ? 3 : 2;
    await journaled(killed.folder, (one) => one.kind === moment && one.round === wanted);
    await kill(first);
    if (moment !== "scored")
      t.same(roundsOf(await recordsOf(killed.folder), "scored"), [1], "killed before its score");
    const { status, stdout, stderr } = await coordinatorOf(t, killed, place).finished;
    t.equal(status, 0, stderr);
    await Promise.all(ended);
    t.match(JSON.parse(stdout), { rounds: 3, accuracy: undisturbed.result.accuracy });
    const records = await recordsOf(killed.folder);
    t.same(scoresOf(records), scoresOf(undisturbed.records));
    const expected = (await linesOf(run("whole"))).map(({ kind, round }) => `${kind} ${round}`);
    const lines = await linesOf(killed.folder);
    t.same(
      lines.map(({ kind, round }) => `${kind} ${round}`),
      expected,
    );
    t.ok((await adapterOf(killed.folder)).equals(undisturbed.adapter));
  });
}

t.test("an interruption while a round is scored ends the coordinator at once", async (t) => {
  const broker = await startBroker({ log: () => {} });
  t.teardown(() => broker.close());
  const stopped = { world, task, folder: run("stopped") };
  const running = coordinatorOf(t, stopped, ["--broker", broker.url]);
  for (const one of devices) void deviceHere(t, stopped, one, { address: broker.url });
  await journaled(stopped.folder, ({ kind }) => kind === "closed");
  running.process.kill("SIGINT");
  const { status, stdout, stderr } = await running.finished;
  // The signal's own death where a batch was under way that nobody can stop politely.
  const end = running.process.signalCode ?? status;
  t.ok(end === "SIGINT" || end === 130, `${end}`);
  t.equal(stdout, "");
  t.notMatch(stderr, /error /);
  t.same(roundsOf(await recordsOf(stopped.folder), "scored"), []);
});

t.test("rounds are scored one after another, journal and metrics in their order", async (t) => {
  const { folder, scorer, scoring, finish } = await openBench(t, []);
  scoring.begin(closedOf(1), parameters);
  scoring.begin(closedOf(2), parameters);
  await finish({ accuracy: 0.25 });
  await finish({ accuracy: 0.75 });
  t.equal(scorer.mostAtOnce, 1);
  t.same(await scoring.settled(), { accuracy: 0.75 });
  t.same(scoresOf(await readJournal(folder.journalFile)), [
    [1, 0.25],
    [2, 0.75],
  ]);
  const lines = await linesOf(folder.path);
  t.match(lines, [
    { kind: "round", round: 1, devices: 1, accuracy: 0.25, seconds: 1 },
    { kind: "round", round: 2, devices: 1, accuracy: 0.75, seconds: 1 },
  ]);
});

t.test("a round that a crash left without its score is scored from its checkpoint", async (t) => {
  const known = [closedOf(1), scoredOf(1), closedOf(2)];
  const { scorer, scoring, finish } = await openBench(t, known);
  await finish({ accuracy: 0.75 });
  t.same(await scoring.settled(), { accuracy: 0.75 });
  t.equal(scorer.begun, 1);
  const other = await openBench(t, [...known, scoredOf(2)]);
  t.same(
    await other.scoring.settled(),
    { accuracy: 0.5 },
    "what the journal says is not asked again",
  );
  t.equal(other.scorer.begun, 0);
});

t.test("a run that ends gives the score up and writes nothing of it", async (t) => {
  const { folder, scoring } = await openBench(t, []);
  scoring.begin(closedOf(1), parameters);
  await scoring.close();
  await scoring.close();
  await t.rejects(scoring.settled(), { message: "the run has ended" });
  t.same(await readJournal(folder.journalFile), []);
});

t.test("lines of rounds that the journal does not know are cut off", async (t) => {
  const path = join(t.testdir(), "metrics.jsonl");
  const line = (kind: string, round: number) => `${JSON.stringify({ kind, round })}\n`;
  const whole = [line("device", 1), line("round", 1), line("refinement", 2), line("device", 2)];
  const later = [line("round", 2), line("refinement", 3), line("device", 3)];
  await writeFile(path, [...whole, ...later, '{"kind":"dev'].join(""));
  const metrics = await openMetrics(path, [closedOf(1), scoredOf(1), closedOf(2)]);
  await metrics.append([{ kind: "round", round: 2, devices: 1 }]);
  t.equal(
    await readFile(path, "utf8"),
    `${whole.join("")}{"kind":"round","round":2,"devices":1}\n`,
  );
});

t.test(
  "a journal that holds the score in the closed line is read as one with two lines",
  async (t) => {
    const file = join(t.testdir(), "records.jsonl");
    await writeFile(file, `${JSON.stringify({ ...closedOf(1), accuracy: 0.5 })}\n`);
    t.same(await readJournal(file), [closedOf(1), { ...scoredOf(1), scoringSeconds: 0 }]);
  },
);

/** Scoring on a real journal, with a scorer that answers when told to. */
async function openBench(t: Test, known: readonly JournalRecord[]) {
  const path = t.testdir();
  const journalFile = join(path, "records.jsonl");
  await appendFile(journalFile, known.map((record) => `${JSON.stringify(record)}\n`).join(""));
  const journal = await openJournal(journalFile);
  t.teardown(() => journal.close());
  const metrics = await openMetrics(join(path, "metrics.jsonl"), journal.records);
  const waiting: ((score: Score) => void)[] = [];
  const scorer = {
    begun: 0,
    running: 0,
    mostAtOnce: 0,
    run: (_parameters: unknown, _examples: unknown, signal?: AbortSignal) => {
      scorer.begun += 1;
      scorer.running += 1;
      scorer.mostAtOnce = Math.max(scorer.mostAtOnce, scorer.running);
      return new Promise<Score>((resolve, reject) => {
        if (signal?.aborted) reject(signal.reason);
        signal?.addEventListener("abort", () => reject(signal.reason));
        waiting.push(resolve);
        onBegun();
      });
    },
  };
  let onBegun = () => {};
  const checkpoint = { round: 2, parameters };
  const { signal } = new AbortController();
  const folder = { journal, metrics, checkpoint };
  const scoring = openScoring({ scorer, testSet: [], folder, signal, onEvent: () => {} });
  const finish = async (score: Score): Promise<void> => {
    while (waiting.length === 0)
      await new Promise<void>((resolve) => {
        onBegun = resolve;
      });
    scorer.running -= 1;
    waiting.shift()?.(score);
  };
  return { folder: { path, journalFile }, scorer, scoring, finish };
}

function roundsOf(records: readonly JournalRecord[], kind: "closed" | "scored"): number[] {
  return records.flatMap((record) => (record.kind === kind ? [record.round] : []));
}

function scoresOf(records: readonly JournalRecord[]): unknown {
  return records.flatMap((record) =>
    record.kind === "scored" ? [[record.round, record.accuracy]] : [],
  );
}

async function linesOf(
  folder: string,
): Promise<readonly (Readonly<Record<string, unknown>> & { kind: string; round: number })[]> {
  const text = await readFile(join(folder, "metrics.jsonl"), "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}
