// The demo's parts that need no training: which board gets which framework and why, and the limits that a
// machine can put on a board.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { limitBoards } from "../../apps/demo/board-limits.ts";
import { demoBoards } from "../../apps/demo/boards.ts";
import { writeRunData } from "../../apps/demo/run-data.ts";
import { readDeviceConfig } from "../../apps/device/config.ts";
import type { DeviceBudget, DeviceProfile } from "../../devices/index.ts";
import {
  assignDevice,
  builtInProtocols,
  type Candidate,
  type CandidateVerdict,
  type FigureName,
  type Selection,
} from "../../protocols/index.ts";

const root = t.testdir();
const runFolder = join(root, "run");
const { taskFile, boards } = await writeRunData(runFolder, { seed: 1, rounds: 4 });
const { task } = await prepareTask(await readTaskFile(taskFile), join(root, "cache"));

/** A board as its process would offer itself. */
interface Offer {
  readonly profile: DeviceProfile;
  readonly budget: DeviceBudget;
  readonly holdOut: number;
}

const offers = new Map<string, Offer>();
for (const { id, data, config: configFile } of boards) {
  const config = await readDeviceConfig(configFile);
  const { profile, budget, holdOutFraction } = config;
  const rows = (await readFile(data, "utf8")).trim().split("\n").length - 1;
  const holdOut = Math.floor(rows * holdOutFraction);
  offers.set(id, { profile: profile as DeviceProfile, budget, holdOut });
}

function select(id: string, change: Partial<Offer> = {}, deviceId = id): Selection {
  const offer = { ...(offers.get(id) as Offer), ...change, deviceId };
  const protocols = Object.fromEntries(
    builtInProtocols.map(({ name, version }) => [name, version]),
  );
  return assignDevice(builtInProtocols, task, { ...offer, protocols });
}

const frameworkOf = ({ assignment }: Selection) => assignment?.protocol;

/** The budget's field for each figure that a budget limits. */
const limitOf: Partial<Record<FigureName, keyof DeviceBudget>> = {
  peakMemoryBytes: "trainingMemoryBytes",
  uplinkBytes: "uplinkBytesPerRound",
  downlinkBytes: "downlinkBytesPerRound",
  bytes: "bytesPerRound",
  seconds: "secondsPerRound",
  joules: "joulesPerRound",
};

t.test("two boards train whole, the metered one sends logits, the small one is cut", async (t) => {
  const chosen = Object.fromEntries([...offers.keys()].map((id) => [id, frameworkOf(select(id))]));
  t.same(chosen, { "orin-nano": "full", "pi-5": "full", "pi-4": "kd", "pi-zero-2w": "split" });
});

t.test(
  "the small board lacks memory for full and kd, the metered one bytes for full and split",
  async (t) => {
    const rejected = (id: string) =>
      Object.fromEntries(
        select(id)
          .table.filter(({ feasible }) => !feasible)
          .map(({ candidate, rejections }) => [
            candidate.protocol,
            rejections.map(({ name }) => name),
          ]),
      );
    const small = rejected("pi-zero-2w");
    t.same([small["full"], small["kd"]], [["peakMemoryBytes"], ["peakMemoryBytes"]]);
    const metered = rejected("pi-4");
    t.same([metered["full"], metered["split"]], [["uplinkBytes"], ["uplinkBytes"]]);
    t.match(select("pi-zero-2w").assignment?.reason, /^split .*full needs .* training memory/);
    t.match(select("pi-4").assignment?.reason, /^kd: full needs .* uplink a round/);
  },
);

t.test(
  "each rejecting limit decides: at the figure it lets pass, one below it rejects",
  async (t) => {
    let limits = 0;
    for (const [id, { budget }] of offers) {
      const { table, assignment } = select(id);
      const first = table.findIndex(({ feasible }) => feasible);
      for (const verdict of table.slice(0, first)) {
        const under = (off: number) =>
          select(id, { budget: { ...budget, ...limitsAt(verdict, off) } });
        const again = (selection: Selection) =>
          selection.table.find(({ candidate }) => isSame(candidate, verdict.candidate))?.feasible;
        t.equal(again(under(0)), true, verdict.text);
        t.equal(again(under(-1)), false, verdict.text);
        t.not(frameworkOf(under(0)), assignment?.protocol, `${id} gets what it preferred`);
        limits += verdict.rejections.length;
      }
    }
    t.ok(limits >= 2, `${limits} limits`);
  },
);

t.test("what a board is called decides nothing", async (t) => {
  const names = [...offers.keys()];
  for (const [i, id] of names.entries()) {
    const { profile } = offers.get(id) as Offer;
    const other = offers.get(names[(i + 1) % names.length] as string) as Offer;
    const renamed = { profile: { ...profile, board: other.profile.board } };
    const { assignment, table } = select(id, renamed, "somebody");
    const original = select(id);
    t.same({ ...assignment, deviceId: id }, original.assignment);
    t.same(table, original.table);
  }
});

t.test("the boards' files say what the boards are", async (t) => {
  for (const { id, profile, budget } of demoBoards) {
    t.match(offers.get(id), { profile, budget }, id);
  }
});

const limits = [
  { id: "a", cores: 1.5, memoryBytes: 512e6 },
  // Less than the kernel takes.
  { id: "b", cores: 0.0001, memoryBytes: 64e6 },
];

t.test("control groups of version 2 get quota, memory and the board's process", async (t) => {
  const groups = t.testdir({ "cgroup.controllers": "cpu memory" });
  const group = await limitBoards(limits, groups);
  t.equal(group.enforced, "cpu and memory");
  await group.admit("b", 4321);
  const [name = ""] = (await readdir(groups)).filter((entry) => entry.startsWith("trifold-"));
  const read = (file: string) => readFile(join(groups, name, file), "utf8");
  t.equal(await read("cgroup.subtree_control"), "+cpu +memory");
  t.equal(await read("a/cpu.max"), "150000 100000");
  t.equal(await read("a/memory.max"), "512000000");
  t.equal(await read("b/cpu.max"), "1000 100000");
  t.equal(await read("b/cgroup.procs"), "4321");
  await t.resolves(group.close());
});

t.test("control groups of version 1 get the same in two hierarchies", async (t) => {
  const groups = t.testdir({ cpu: {}, memory: {} });
  const group = await limitBoards(limits, groups);
  t.equal(group.enforced, "cpu and memory");
  await group.admit("a", 4321);
  const [name = ""] = await readdir(join(groups, "cpu"));
  const read = (file: string) => readFile(join(groups, file), "utf8");
  t.equal(await read(`cpu/${name}/a/cpu.cfs_period_us`), "100000");
  t.equal(await read(`cpu/${name}/a/cpu.cfs_quota_us`), "150000");
  t.equal(await read(`memory/${name}/a/memory.limit_in_bytes`), "512000000");
  for (const hierarchy of ["cpu", "memory"])
    t.equal(await read(`${hierarchy}/${name}/a/cgroup.procs`), "4321");
  await t.resolves(group.close());
});

t.test("what cannot be enforced is said", async (t) => {
  const one = await limitBoards(limits, t.testdir({ memory: {} }));
  t.equal(one.enforced, "memory");
  const none = await limitBoards(limits, t.testdir());
  t.equal(none.enforced, "nothing");
  await t.resolves(none.admit("a", 4321));
  await t.resolves(none.close());
});

function isSame(a: Candidate, b: Candidate): boolean {
  return a.protocol === b.protocol && a.cutLayer === b.cutLayer;
}

/** The budget that a rejected candidate keeps (0) or just breaks (-1). */
function limitsAt({ rejections }: CandidateVerdict, off: number): DeviceBudget {
  return Object.fromEntries(
    rejections.flatMap(({ name, value }) => {
      const field = name && limitOf[name];
      return field && value !== undefined ? [[field, value + off]] : [];
    }),
  );
}

t.test("groups that a killed demo left are removed, those of a living one stay", async (t) => {
  // No process has an id above the kernel's largest.
  const orphan = "trifold-4194999-00000000";
  const living = `trifold-${process.pid}-00000000`;
  const groups = t.testdir({
    cpu: { [orphan]: { "pi-4": {} }, [living]: { "pi-4": {} } },
    memory: {},
  });
  await limitBoards([], groups);
  const left = await readdir(join(groups, "cpu"));
  t.notOk(left.includes(orphan));
  t.ok(left.includes(living));
});
