// A device that breaks a limit in a real federation does something else in the next round, and everybody is told.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import type { Fleet } from "../../apps/coordinator/fleet.ts";
import { prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { createRevisions, type Revisions } from "../../apps/coordinator/revisions.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import type { RunReport } from "../../apps/report/run-report.ts";
import { boardProfile } from "../../devices/index.ts";
import { builtInProtocols, requireAssignment } from "../../protocols/index.ts";
import { federate, makeWorld, writeTask } from "./small-federation.ts";

const world = await makeWorld(t.testdir());
const run = (name: string) => join(world.folder, "runs", name);
const settings = { cohort: { minimumDevices: 2 }, selection: { order: ["split", "full"] } };
const taskFile = await writeTask(world, "revised", settings);
const { task } = await prepareTask(await readTaskFile(taskFile), world.cacheFolder);
// Above what the declared board is estimated to take, for the first choice is given; no machine loads a round's graphs in a tenth more.
const budget = { secondsPerRound: 0.05 };
const devices = [{ id: "a" }, { id: "b", budget }];
const { events, records, result, runFolder, log } = await federate(world, {
  task: taskFile,
  run: run("revised"),
  devices,
});
const because = /^split \(cut 1\) is refused: it took .* of .* time in round 1$/;

t.test("what a round broke moves its device in the next one", async (t) => {
  const lanes = records.flatMap((record) =>
    record.kind === "lane" ? [[record.round, record.deviceId, record.assignment.protocol]] : [],
  );
  t.same(lanes.sort(), [
    [1, "a", "split"],
    [1, "b", "split"],
    [2, "a", "split"],
    [2, "b", "full"],
  ]);
  t.equal(result.rounds, 2);
  const reason = /round 2: full: split \(cut 1\) is refused: it took .* time in round 1/;
  t.ok(
    log.some((line) => line.startsWith("b: ") && reason.test(line)),
    "the device's log says why",
  );
});

t.test("the move is an event, a line of the journal and of the report", async (t) => {
  const move = { round: 2, deviceId: "b", from: "split (cut 1)", because };
  t.match(
    events.find(({ kind }) => kind === "revised"),
    { ...move, to: "full" },
  );
  t.match(
    records.find(({ kind }) => kind === "revised"),
    move,
  );
  const report = JSON.parse(await readFile(join(runFolder, "report.json"), "utf8")) as RunReport;
  t.match(report.revisions, [{ ...move, to: "full" }]);
  t.match(await readFile(join(runFolder, "report.html"), "utf8"), /Reassigned.*round 2: b/s);
});

t.test("a coordinator that comes back knows what rounds have shown", async (t) => {
  const protocols = Object.fromEntries(
    builtInProtocols.map(({ name, version }) => [name, version] as const),
  );
  const offer = { deviceId: "b", profile: boardProfile("pi-5"), budget, holdOut: 4, protocols };
  const choice = (known: typeof records, id = "b") => {
    const journal = { records: known, append: async () => {}, close: async () => {} };
    const options = { task, protocols: builtInProtocols, journal, onEvent: () => {} };
    return createRevisions(options).assign({ ...offer, deviceId: id }).assignment?.protocol;
  };
  t.equal(choice(records), "full");
  t.equal(choice([]), "split", "a new run does not");
  t.equal(choice(records, "c"), "split", "nor does it hold for another device");
});

t.test("a task may keep what devices got when they joined", async (t) => {
  const selection = { ...settings.selection, revisit: false };
  const kept = await writeTask(world, "kept", { ...settings, selection });
  const other = await federate(world, { task: kept, run: run("kept"), devices });
  const used = other.records.flatMap((record) =>
    record.kind === "lane" ? [record.assignment.protocol] : [],
  );
  t.same(used, ["split", "split", "split", "split"]);
});

t.test("a measured link reaches the next lane's allowance, and is no move", async (t) => {
  const settings = {
    kd: { topK: "adaptive", linkSeconds: 2 },
    assignments: [{ devices: ["b"], protocol: "kd" }],
  };
  const adaptive = await prepareTask(
    await readTaskFile(await writeTask(world, "adaptive", settings)),
    world.cacheFolder,
  );
  const protocols = Object.fromEntries(
    builtInProtocols.map(({ name, version }) => [name, version] as const),
  );
  const offer = { deviceId: "b", profile: boardProfile("pi-5"), budget: {}, holdOut: 4, protocols };
  const told: unknown[] = [];
  const journal = {
    records: [],
    append: async (record: object) => void told.push(record),
    close: async () => {},
  };
  const revisions = createRevisions({
    task: adaptive.task,
    protocols: builtInProtocols,
    journal,
    onEvent: (event) => told.push(event),
  });
  const assignment = requireAssignment("b", revisions.assign(offer));
  const state = { uplinkBitsPerSecond: 80_000 };
  const lane = { assignment, info: { round: 1, attempt: 1, lane: 1, globalStep: 0 } };
  const ended = { lane, report: () => ({ state }), isAccepted: true, staleness: 0 };
  await revisions.note(1, { lanes: [ended] } as unknown as Parameters<Revisions["note"]>[1]);
  const given: unknown[] = [];
  const ready = new Map([["b", { id: "b", offer, assignment }]]);
  const reassign: Fleet["reassign"] = (id, change) => {
    given.push([id, change.assignment.allowance?.uplinkBytes, change.selection.assignment]);
  };
  await revisions.revise({ ready, reassign } as unknown as Fleet, 2);
  const uplinkBytes = (2 * state.uplinkBitsPerSecond) / 8;
  const allowance = { ...assignment.allowance, uplinkBytes };
  t.same(given, [["b", uplinkBytes, { ...assignment, allowance }]]);
  t.same(told, []);
});

t.test(
  "a device whose limit carries a lower rank only trains that one beside the others",
  async (t) => {
    const adapter = { rank: 4, alpha: 8, targets: ["c_attn"], ranks: [2] };
    const ranked = await writeTask(world, "ranked", {
      adapter,
      cohort: { minimumDevices: 2 },
      selection: { order: ["full"] },
    });
    const { task: ranks } = await prepareTask(await readTaskFile(ranked), world.cacheFolder);
    const full = builtInProtocols.find(({ name }) => name === "full");
    const limit = full?.estimate(ranks, { holdOut: 4, rank: 2 }).uplinkBytes ?? 0;
    const small = { id: "b", budget: { uplinkBytesPerRound: 1.5 * limit } };
    const ended = await federate(world, {
      task: ranked,
      run: run("ranked"),
      devices: [{ id: "a" }, small],
    });
    const used = ended.records.flatMap((record) =>
      record.kind === "lane" ? [`${record.deviceId} ${record.assignment.rank ?? 4}`] : [],
    );
    t.same(used.sort(), ["a 4", "a 4", "b 2", "b 2"]);
    const config = await readFile(join(run("ranked"), "adapter", "adapter_config.json"), "utf8");
    t.match(JSON.parse(config), { r: 4, lora_alpha: 8 });
  },
);
