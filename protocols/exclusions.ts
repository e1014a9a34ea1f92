// What excludes what in a task (FRAMEWORKS.md sections 1 to 3): settings that are each right and together wrong. The schema
// judges one field at a time; this table judges pairs, for the file that a person wrote and for the task that came over the wire.
import type { TaskSettings } from "./task.ts";

/** Two fields that do not go together. */
export interface Exclusion {
  /** Paths of the fields, first the one to blame. */
  readonly fields: readonly [string, string];
  readonly excludes: (task: TaskSettings) => boolean;
  /** Why, in words for whoever wrote the task. */
  readonly reason: string;
}

/** A pair that a task has and must not have. */
export interface Contradiction {
  /** Path of the field to blame. */
  readonly field: string;
  /** Its value, the other field with its value, and the reason. */
  readonly problem: string;
}

/** The rows, in the order in which they are checked. */
export const exclusions: readonly Exclusion[] = [
  {
    fields: ["aggregation.combine", "aggregation.method"],
    excludes: ({ aggregation: { combine, method } }) => combine !== "mean" && method === "stack",
    reason:
      "stack averages the products of the factors, the others pick values or updates of the factors themselves",
  },
  {
    fields: ["aggregation.optimizer.kind", "aggregation.method"],
    excludes: ({ aggregation: { optimizer, method } }) =>
      optimizer.kind !== "fedavg" && method === "stack",
    reason: "stack factors theta anew each round, so moments of its values would belong to others",
  },
  {
    fields: ["aggregation.optimizer.rate", "aggregation.method"],
    excludes: ({ aggregation: { optimizer, method } }) =>
      (optimizer.rate ?? 1) !== 1 && method === "stack",
    reason: "stack gives the next theta itself, there is no update to scale",
  },
  {
    fields: ["aggregation.combine", "cohort.minimumDevices"],
    excludes: ({ aggregation: { combine, byzantine }, cohort }) =>
      combine === "krum" && cohort.minimumDevices < 2 * byzantine + 3,
    reason:
      "krum needs the updates of at least 2 * aggregation.byzantine + 3 devices in every round",
  },
  {
    fields: ["aggregation.combine", "selection.order"],
    excludes: ({ aggregation: { combine }, selection: { order } }) =>
      combine === "krum" && order.every((name) => name === "kd"),
    reason: "krum compares updates, and kd devices give none",
  },
  {
    fields: ["asynchronous", "aggregation.method"],
    excludes: ({ asynchronous, aggregation: { method } }) =>
      Boolean(asynchronous) && method === "stack",
    reason:
      "stack factors theta anew each round, and an update that began earlier has other factors",
  },
  {
    fields: ["asynchronous", "aggregation.combine"],
    excludes: ({ asynchronous, aggregation: { combine } }) =>
      Boolean(asynchronous) && combine !== "mean",
    reason: "they compare the updates of one theta, those of a buffer began from several",
  },
  {
    fields: ["asynchronous", "cohort.fraction"],
    excludes: ({ asynchronous, cohort: { fraction } }) => Boolean(asynchronous) && fraction < 1,
    reason: "every device begins again as soon as it has delivered, no round asks anyone",
  },
  {
    fields: ["asynchronous", "selection.order"],
    excludes: ({ asynchronous, selection: { order } }) =>
      Boolean(asynchronous) && !order.includes("full"),
    reason:
      "kd teaches and split answers within one round, only updates of full may be folded one at a time",
  },
  {
    fields: ["aggregation.combine", "assignments"],
    excludes: ({ aggregation: { combine }, assignments }) =>
      combine === "krum" && assignments.some(({ rank }) => rank !== undefined),
    reason: "krum compares whole updates, and those of different ranks have no distance",
  },
  {
    fields: ["aggregation.combine", "adapter.ranks"],
    excludes: ({ aggregation: { combine }, adapter }) =>
      combine === "krum" && adapter.ranks !== undefined,
    reason: "krum compares whole updates, and those of different ranks have no distance",
  },
  {
    fields: ["adapter.ranks", "adapter.rank"],
    excludes: ({ adapter: { rank, ranks = [] } }) => ranks.some((lower) => lower > rank),
    reason: "a device trains the leading ranks of the adapter, it cannot have more",
  },
  {
    fields: ["assignments", "adapter.rank"],
    excludes: ({ assignments, adapter }) =>
      assignments.some(({ rank = adapter.rank }) => rank > adapter.rank),
    reason: "a device trains the leading ranks of the adapter, it cannot have more",
  },
  {
    fields: ["kd.aggregation", "head.kind"],
    excludes: ({ kd: { aggregation }, head }) => aggregation === "perClass" && head.kind === "lm",
    reason: "the classes of a language model are tokens, and no device lacks one",
  },
  {
    fields: ["full.proximal", "full.mode"],
    excludes: ({ full }) => full.proximal > 0 && full.mode === "gradients",
    reason: "the gradient is taken at the global model, where the proximal term has none",
  },
  {
    fields: ["full.errorFeedback", "aggregation.method"],
    excludes: ({ full, aggregation }) =>
      full.errorFeedback === true && aggregation.method === "stack",
    reason: "stack factors theta anew each round, so what was lost of its values belongs to others",
  },
  {
    fields: ["split.gradients", "split.errorFeedback"],
    excludes: ({ split }) => split.gradients === "topk" && !split.errorFeedback,
    reason: "topk drops most of a gradient, and without error feedback it is lost for good",
  },
  {
    fields: ["split.tails", "aggregation.combine"],
    excludes: ({ split, aggregation: { combine } }) =>
      split.tails === "shared" && combine !== "mean",
    reason:
      "they compare the updates of devices, and those that share a part have one between them",
  },
  {
    fields: ["split.tails", "training.moments"],
    excludes: ({ split, training }) => split.tails === "shared" && training.moments === "keep",
    reason: "a shared part begins each round afresh, for other devices may train it then",
  },
  {
    fields: ["split.tails", "asynchronous"],
    excludes: ({ split, asynchronous }) => split.tails === "shared" && Boolean(asynchronous),
    reason: "no two devices begin or end together, so they have no part in common",
  },
  {
    fields: ["full.encoding", "full.errorFeedback"],
    excludes: ({ full }) => full.encoding === "topk" && full.errorFeedback === false,
    reason: "topk drops most of a change, and without error feedback it is lost for good",
  },
  {
    fields: ["full.encoding", "aggregation.method"],
    excludes: ({ full, aggregation }) => full.encoding === "topk" && aggregation.method === "stack",
    reason: "stack goes without error feedback, and what topk drops would be lost for good",
  },
  {
    fields: ["training.moments", "full.mode"],
    excludes: ({ training, full }) => training.moments === "keep" && full.mode === "gradients",
    reason: "a mean gradient is no local step, so there are no moments to keep",
  },
  {
    fields: ["training.moments", "aggregation.method"],
    excludes: ({ training, aggregation }) =>
      training.moments === "keep" && aggregation.method === "stack",
    reason: "stack factors theta anew each round, so moments of its values would belong to others",
  },
];

/**
 * The first pair of the table that a task has, or undefined when there is none. Of its fields the first that `isWritten` is to
 * blame: the other may be a default that stands nowhere.
 */
export function contradictionOf(
  task: TaskSettings,
  isWritten: (path: string) => boolean = () => true,
): Contradiction | undefined {
  const row = exclusions.find(({ excludes }) => excludes(task));
  if (!row) return undefined;
  const field = row.fields.find(isWritten) ?? row.fields[0];
  const other = row.fields.find((path) => path !== field) ?? field;
  const [value, otherValue] = [field, other].map((path) => JSON.stringify(valueAt(task, path)));
  return { field, problem: `${value} does not go with ${other} ${otherValue}: ${row.reason}` };
}

function valueAt(task: unknown, path: string): unknown {
  return path
    .split(".")
    .reduce<unknown>((value, name) => (value as Readonly<Record<string, unknown>>)?.[name], task);
}
