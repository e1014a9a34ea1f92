// Settings that are right alone and wrong together: the table, and both places that refuse by it.
import { join } from "node:path";
import t from "tap";
import { stringify } from "yaml";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { contradictionOf, exclusions, parseTask, taskSchema } from "../../protocols/index.ts";

type Settings = Readonly<Record<string, unknown>>;

/** For each row by its fields: a task that it refuses, and the nearest that it does not. */
const cases: Readonly<Record<string, { readonly wrong: Settings; readonly right: Settings }>> = {
  "aggregation.combine, aggregation.method": {
    wrong: { aggregation: { method: "stack", combine: "median" } },
    right: { aggregation: { method: "ffa", combine: "median" } },
  },
  "aggregation.optimizer.kind, aggregation.method": {
    wrong: { aggregation: { method: "stack", optimizer: { kind: "fedadam" } } },
    right: { aggregation: { method: "stack", optimizer: { kind: "fedavg" } } },
  },
  "aggregation.optimizer.rate, aggregation.method": {
    wrong: { aggregation: { method: "stack", optimizer: { rate: 0.5 } } },
    right: { aggregation: { method: "stack", optimizer: { rate: 1 } } },
  },
  "aggregation.combine, assignments": {
    wrong: {
      aggregation: { combine: "krum" },
      cohort: { minimumDevices: 5 },
      assignments: [{ devices: ["a"], rank: 2 }],
    },
    right: {
      aggregation: { combine: "median" },
      cohort: { minimumDevices: 5 },
      assignments: [{ devices: ["a"], rank: 2 }],
    },
  },
  "aggregation.combine, adapter.ranks": {
    wrong: {
      aggregation: { combine: "krum" },
      cohort: { minimumDevices: 5 },
      adapter: { rank: 8, alpha: 16, targets: ["c_attn"], ranks: [2] },
    },
    right: {
      aggregation: { combine: "median" },
      cohort: { minimumDevices: 5 },
      adapter: { rank: 8, alpha: 16, targets: ["c_attn"], ranks: [2] },
    },
  },
  "adapter.ranks, adapter.rank": {
    wrong: { adapter: { rank: 8, alpha: 16, targets: ["c_attn"], ranks: [2, 9] } },
    right: { adapter: { rank: 8, alpha: 16, targets: ["c_attn"], ranks: [2, 8] } },
  },
  "assignments, adapter.rank": {
    wrong: { assignments: [{ devices: ["a"], rank: 9 }] },
    right: { assignments: [{ devices: ["a"], rank: 8 }] },
  },
  "aggregation.combine, cohort.minimumDevices": {
    wrong: { aggregation: { combine: "krum", byzantine: 2 }, cohort: { minimumDevices: 6 } },
    right: { aggregation: { combine: "krum", byzantine: 2 }, cohort: { minimumDevices: 7 } },
  },
  "aggregation.combine, selection.order": {
    wrong: {
      aggregation: { combine: "krum" },
      cohort: { minimumDevices: 5 },
      selection: { order: ["kd"] },
    },
    right: {
      aggregation: { combine: "krum" },
      cohort: { minimumDevices: 5 },
      selection: { order: ["kd", "full"] },
    },
  },
  "full.errorFeedback, aggregation.method": {
    wrong: { full: { errorFeedback: true }, aggregation: { method: "stack" } },
    right: { full: { errorFeedback: true }, aggregation: { method: "ffa" } },
  },
  "split.gradients, split.errorFeedback": {
    wrong: { split: { gradients: "topk" } },
    right: { split: { gradients: "topk", errorFeedback: true } },
  },
  "split.tails, aggregation.combine": {
    wrong: { split: { tails: "shared" }, aggregation: { combine: "median" } },
    right: { split: { tails: "shared" }, aggregation: { combine: "mean" } },
  },
  "split.tails, training.moments": {
    wrong: { split: { tails: "shared" }, training: { moments: "keep" } },
    right: { split: { tails: "shared" }, training: { moments: "fresh" } },
  },
  "split.tails, asynchronous": {
    wrong: { split: { tails: "shared" }, asynchronous: {} },
    right: { split: { tails: "per-device" }, asynchronous: {} },
  },
  "full.encoding, full.errorFeedback": {
    wrong: { full: { encoding: "topk", errorFeedback: false } },
    right: { full: { encoding: "topk" } },
  },
  "full.encoding, aggregation.method": {
    wrong: { full: { encoding: "topk" }, aggregation: { method: "stack" } },
    right: { full: { encoding: "int4" }, aggregation: { method: "stack" } },
  },
  "training.moments, full.mode": {
    wrong: { training: { moments: "keep" }, full: { mode: "gradients" } },
    right: { training: { moments: "keep" }, full: { mode: "parameters" } },
  },
  "full.proximal, full.mode": {
    wrong: { full: { proximal: 0.1, mode: "gradients" } },
    right: { full: { proximal: 0.1, mode: "parameters" } },
  },
  "training.moments, aggregation.method": {
    wrong: { training: { moments: "keep" }, aggregation: { method: "stack" } },
    right: { training: { moments: "keep" }, aggregation: { method: "fedavg" } },
  },
  "asynchronous, aggregation.method": {
    wrong: { asynchronous: {}, aggregation: { method: "stack" } },
    right: { asynchronous: {}, aggregation: { method: "ffa" } },
  },
  "asynchronous, aggregation.combine": {
    wrong: { asynchronous: {}, aggregation: { combine: "median" } },
    right: { aggregation: { combine: "median" } },
  },
  "asynchronous, cohort.fraction": {
    wrong: { asynchronous: {}, cohort: { fraction: 0.5 } },
    right: { asynchronous: {}, cohort: { fraction: 1 } },
  },
  "asynchronous, selection.order": {
    wrong: { asynchronous: {}, selection: { order: ["split", "kd"] } },
    right: { asynchronous: {}, selection: { order: ["kd", "full"] } },
  },
  "kd.aggregation, head.kind": {
    wrong: { head: { kind: "lm" }, kd: { aggregation: "perClass" } },
    right: { head: { kind: "lm" }, kd: { aggregation: "entropy" } },
  },
};

const head = { kind: "classification", labels: ["land", "sea"] };
const settingsOf = (fields: Settings) => taskSchema.parse({ name: "pairs", head, ...fields });

t.test("every row of the table has its case here", async (t) => {
  t.same(exclusions.map(({ fields }) => fields.join(", ")).sort(), Object.keys(cases).sort());
});

t.test("each row refuses a pair of settings and names both fields and values", async (t) => {
  for (const [fields, { wrong, right }] of Object.entries(cases)) {
    const [first = "", second = ""] = fields.split(", ");
    const { field, problem } = contradictionOf(settingsOf(wrong)) ?? {};
    t.equal(field, first);
    t.match(problem, new RegExp(`^\\S+ does not go with ${second} \\S+: .+`));
    t.notMatch(problem, /undefined/, "both fields exist");
    t.equal(contradictionOf(settingsOf(right)), undefined, `${fields}: the right one passes`);
  }
});

t.test("a field that nobody wrote is not to blame", async (t) => {
  const settings = settingsOf({ aggregation: { combine: "krum" } });
  const isWritten = (path: string) => path === "cohort.minimumDevices";
  t.match(contradictionOf(settings, isWritten), {
    field: "cohort.minimumDevices",
    problem: /^1 does not go with aggregation\.combine "krum": /,
  });
});

t.test("a task at its defaults contradicts nothing", async (t) => {
  t.equal(contradictionOf(settingsOf({})), undefined);
});

t.test("a task file is refused with the line of the field that stands in it", async (t) => {
  for (const [fields, { wrong, right }] of Object.entries(cases)) {
    const text = (more: Settings) =>
      stringify({ name: "pairs", head, data: { test: "test.csv" }, ...more });
    const folder = t.testdir({ "wrong.yaml": text(wrong), "right.yaml": text(right) });
    const [first = "", second = ""] = fields.split(", ");
    const line = lineOf(text(wrong), first);
    await t.rejects(readTaskFile(join(folder, "wrong.yaml")), {
      code: "TASK_FILE_INVALID",
      // A list begins on the line of its first item.
      message: new RegExp(`wrong\\.yaml:(${line}|${line + 1}): ${first}: .*${second}`),
    });
    await t.resolves(readTaskFile(join(folder, "right.yaml")));
  }
});

t.test("an announced task is refused with both fields", async (t) => {
  for (const [fields, { wrong, right }] of Object.entries(cases)) {
    const [first = "", second = ""] = fields.split(", ");
    t.throws(() => parseTask({ ...settingsOf(wrong), manifest }), {
      code: "TASK_INVALID",
      message: new RegExp(`the announced task: ${first}: .*${second}`),
    });
    t.doesNotThrow(() => parseTask({ ...settingsOf(right), manifest }));
  }
});

/** Line of a path's last name in YAML, counted from 1. */
function lineOf(text: string, path: string): number {
  const lines = text.split("\n");
  return path.split(".").reduce((from, name) => {
    const at = lines.slice(from).findIndex((line) => line.trim().startsWith(`${name}:`));
    return from + at + 1;
  }, 0);
}

const manifest = {
  modelSha256: "0".repeat(64),
  tokenizerSha256: "0".repeat(64),
  config: {
    family: "gpt2",
    vocabSize: 64,
    positions: 96,
    hiddenSize: 32,
    layers: 2,
    heads: 2,
    innerSize: 64,
    layerNormEpsilon: 1e-5,
    padTokenId: 0,
  },
};
