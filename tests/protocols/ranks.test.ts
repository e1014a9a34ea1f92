// Ranks as candidates of selection: a device that does not carry the task's rank is offered a lower one.
import t from "tap";
import { boardProfile, type DeviceBudget } from "../../devices/index.ts";
import {
  assignDevice,
  builtInProtocols,
  type DeviceOffer,
  labelOf,
  type RoundExperience,
  requireAssignment,
  revise,
  type Selection,
  type Task,
} from "../../protocols/index.ts";
import { openToy, type TaskInput } from "./toy.ts";

const versions = Object.fromEntries(builtInProtocols.map(({ name, version }) => [name, version]));
const adapter = { rank: 4, alpha: 8, targets: ["c_attn", "mlp.c_fc"] };
const toy = await openToy(t);
const taskWith = (ranks: readonly number[], settings: TaskInput = {}): Task =>
  toy.task({ adapter: { ...adapter, ranks: [...ranks] }, ...settings });
const offerOf = (budget: DeviceBudget): DeviceOffer => {
  const profile = boardProfile("pi-5");
  return { deviceId: "d", budget, profile, holdOut: 0, protocols: versions };
};
const select = (task: Task, budget: DeviceBudget = {}): Selection =>
  assignDevice(builtInProtocols, task, offerOf(budget));
const uplinkOf = ({ table }: Selection, label: string): number =>
  table.find(({ candidate }) => labelOf(candidate) === label)?.candidate.cost.uplinkBytes ?? 0;
const labels = ({ table }: Selection) => table.map(({ candidate }) => labelOf(candidate));

t.test("each rank is a way of full, the highest first, and only of full", async (t) => {
  const task = taskWith([1, 2, 2, 4], { selection: { order: ["full", "kd"] } });
  t.same(labels(select(task)), ["full", "full (rank 2)", "full (rank 1)", "kd"]);
  t.equal(select(task).assignment?.rank, undefined, "which fits has the task's");
  const plain = toy.task({ selection: { order: ["full", "kd"] } });
  t.same(labels(select(plain)), ["full", "kd"]);
});

t.test("a link that does not carry the task's rank gets the highest that it does", async (t) => {
  const task = taskWith([2, 1], { selection: { order: ["full", "kd"] } });
  const all = select(task);
  const budget = { uplinkBytesPerRound: uplinkOf(all, "full (rank 2)") };
  const { assignment, table } = select(task, budget);
  t.equal(assignment?.rank, 2);
  t.match(assignment?.reason, /^full \(rank 2\): full needs .* of .* uplink a round$/);
  t.match(table[0]?.rejections, [
    { name: "uplinkBytes", value: uplinkOf(all, "full"), limit: budget.uplinkBytesPerRound },
  ]);
  const tighter = select(task, { uplinkBytesPerRound: uplinkOf(all, "full (rank 1)") });
  t.match(tighter.assignment?.reason, /full needs .*; full \(rank 2\) needs .* uplink a round$/);
  const without = select(toy.task({ adapter, selection: { order: ["full"] } }), budget);
  t.throws(() => requireAssignment("d", without), { code: "SELECTION_IMPOSSIBLE" });
});

t.test("every allowed mode of a rank comes before a lower one", async (t) => {
  const execution = { modes: ["whole-float32", "blocks-float32"] } as const;
  const task = taskWith([2], {
    execution: { modes: [...execution.modes] },
    selection: { order: ["full"] },
  });
  t.same(labels(select(task)), [
    "full",
    "full (blocks-float32)",
    "full (rank 2)",
    "full (blocks-float32, rank 2)",
  ]);
});

t.test("a row of the task that gives a rank leaves no other", async (t) => {
  const assignments = [{ devices: ["d"], protocol: "full", rank: 3 }];
  t.same(labels(select(taskWith([2, 1], { assignments }))), ["full (rank 3)"]);
});

t.test("a round that took too many bytes moves a device to a lower rank", async (t) => {
  const task = taskWith([2], { selection: { order: ["full"] } });
  const uplinkBytes = uplinkOf(select(task), "full");
  const offer = offerOf({ uplinkBytesPerRound: uplinkBytes });
  const current = requireAssignment("d", assignDevice(builtInProtocols, task, offer));
  const figures = { uplinkBytes: 1.2 * uplinkBytes };
  const history: RoundExperience[] = [{ protocol: "full", round: 1, kind: "done", figures }];
  const { assignment } = revise(builtInProtocols, task, { offer, current, history });
  t.equal(labelOf(assignment), "full (rank 2)");
});
