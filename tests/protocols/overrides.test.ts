// What a task says of single devices: whom a row names, what it narrows, and what it may not do.
import t, { type Test } from "tap";
import { boardProfile, type DeviceBudget } from "../../devices/index.ts";
import {
  assignDevice,
  builtInProtocols,
  type DeviceOffer,
  requireAssignment,
  type Selection,
  taskSchema,
} from "../../protocols/index.ts";
import { openToy, type TaskInput } from "./toy.ts";

const versions = Object.fromEntries(builtInProtocols.map(({ name, version }) => [name, version]));
const offerOf = (deviceId: string, budget: DeviceBudget = {}): DeviceOffer => {
  return { deviceId, budget, profile: boardProfile("pi-5"), holdOut: 0, protocols: versions };
};

/** Selects for devices of the toy task under rows of `assignments`. */
async function selecting(t: Test) {
  const toy = await openToy(t);
  return (
    assignments: readonly object[],
    offer: DeviceOffer,
    settings: TaskInput = {},
  ): Selection => assignDevice(builtInProtocols, toy.task({ assignments, ...settings }), offer);
}

t.test("a row names devices by id, pattern or group; the first that does is theirs", async (t) => {
  const select = await selecting(t);
  const rows = [
    { devices: ["attic"], protocol: "kd" },
    { devices: ["pi-*-b", "*east*"], protocol: "split", cutLayer: 3 },
    { group: "lab", protocol: "split", cutLayer: 2 },
    { devices: ["*"], protocol: "full" },
  ];
  const choice = (id: string, group?: string) => {
    const offer = { ...offerOf(id), ...(group === undefined ? {} : { group }) };
    const { protocol, cutLayer } = requireAssignment(id, select(rows, offer));
    return [protocol, cutLayer];
  };
  t.same(choice("attic", "lab"), ["kd", undefined], "the first row");
  t.same(choice("pi-4-b"), ["split", 3]);
  t.same(choice("north-east-2"), ["split", 3]);
  t.same(choice("pi-b"), ["full", undefined], "the two ends of a pattern do not share a dash");
  t.same(choice("bench", "lab"), ["split", 2]);
  t.same(choice("attic-2"), ["full", undefined]);
  t.equal(select(rows.slice(0, 3), offerOf("z")).override, undefined, "selection is left alone");
});

t.test("the reason says who overrode what", async (t) => {
  const select = await selecting(t);
  const { assignment } = select([{ devices: ["pi-*"], protocol: "kd" }], offerOf("pi-4"));
  t.match(
    assignment?.reason,
    /^kd: overridden by the task \(kd, for devices pi-\*\), takes .* of /,
  );
});

t.test("a row narrows the ways of the protocols that it leaves", async (t) => {
  const select = await selecting(t);
  const cut = select([{ devices: ["d"], cutLayer: 3 }], offerOf("d"));
  t.equal(cut.assignment?.protocol, "full", "the order decides");
  t.same(
    cut.table.map(({ candidate: { protocol, cutLayer } }) => [protocol, cutLayer]),
    [
      ["full", undefined],
      ["split", 3],
      ["kd", undefined],
    ],
  );
  const mode = select([{ devices: ["d"], mode: "blocks-int8" }], offerOf("d"));
  t.match(mode.assignment, { protocol: "full", mode: "blocks-int8" }, "one the task does not list");
  t.equal(mode.table.length, 5, "which says nothing of the three cuts");
});

t.test("an override that breaks a limit is refused with the figure, or forced", async (t) => {
  const select = await selecting(t);
  const budget = { uplinkBytesPerRound: 10 };
  const row = { devices: ["d"], protocol: "split", cutLayer: 1 };
  t.throws(() => requireAssignment("d", select([row], offerOf("d", budget))), {
    code: "SELECTION_IMPOSSIBLE",
    message:
      /^device d: the task assigns split \(cut 1\), for devices d: split \(cut 1\) needs .* of 10 B uplink a round$/,
    hint: /force: true/,
  });
  const { assignment } = select([{ ...row, force: true }], offerOf("d", budget));
  t.match(assignment, { protocol: "split", cutLayer: 1 });
  t.match(assignment?.reason, /forced although it needs .* of 10 B uplink a round/);
});

t.test("no force sends labels, or makes a device do what it does not have", async (t) => {
  const select = await selecting(t);
  const rows = [{ devices: ["d"], protocol: "split", cutLayer: 1, force: true }];
  const labels = select(rows, offerOf("d"), { labelsMayLeave: false });
  t.throws(() => requireAssignment("d", labels), { message: /labels would leave the device/ });
  const { split: _, ...others } = versions;
  const lacking = select(rows, { ...offerOf("d"), protocols: others });
  t.throws(() => requireAssignment("d", lacking), { message: /does not have "split"/ });
});

t.test("what does not exist is refused by name", async (t) => {
  const select = await selecting(t);
  const refusal =
    (row: object, settings: TaskInput = {}) =>
    () =>
      requireAssignment("d", select([{ devices: ["d"], ...row }], offerOf("d"), settings));
  t.throws(refusal({ protocol: "split", cutLayer: 4 }), {
    message: /split \(cut 4\).*no candidates/,
  });
  t.throws(refusal({ protocol: "gossip" }), { message: /assigns gossip.*no candidates/ });
  t.throws(refusal({ protocol: "split", rank: 2 }), { message: /"rank".*split lets only/ });
  t.throws(refusal({ protocol: "kd", encoding: "int8" }), { message: /"encoding".*kd lets/ });
  t.throws(refusal({ protocol: "full", cutLayer: 1 }), { message: /"cutLayer".*full lets/ });
  t.throws(refusal({ protocol: "kd" }, { selection: { order: ["full"] } }), {
    message: /kd is not among the task's protocols \(full\)/,
  });
});

t.test("a row names whom it means, once", async (t) => {
  const faultOf = (row: object) => {
    const head = { kind: "classification", labels: ["a", "b"] };
    const parsed = taskSchema.safeParse({ name: "x", head, assignments: [row] });
    return parsed.error?.issues[0]?.message;
  };
  t.match(faultOf({ protocol: "kd" }), /either "devices" or "group"/);
  t.match(faultOf({ devices: ["a"], group: "b" }), /either "devices" or "group"/);
  t.match(faultOf({ devices: ["a/b"] }), /pattern/);
  t.match(faultOf({ devices: [] }), />=1/);
  t.equal(faultOf({ devices: ["a*"] }), undefined);
});

t.test("what a round costs is estimated once for equal tasks and ways", async (t) => {
  const toy = await openToy(t);
  let estimates = 0;
  const counted = builtInProtocols.map((protocol) => ({
    ...protocol,
    estimate: (...asked: Parameters<typeof protocol.estimate>) => {
      estimates += 1;
      return protocol.estimate(...asked);
    },
  }));
  const first = assignDevice(counted, toy.task(), offerOf("a"));
  t.equal(estimates, first.table.length);
  t.same(assignDevice(counted, toy.task(), offerOf("a")), first);
  t.equal(estimates, first.table.length, "revisions ask after every round");
  assignDevice(counted, toy.task({ training: { localSteps: 9 } }), offerOf("a"));
  t.equal(estimates, 2 * first.table.length, "another task has costs of its own");
});
