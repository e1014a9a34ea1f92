// What a comparison is asked to do, and the task of each of its federations.
import type { z } from "zod";
import type { BoardKey } from "../../devices/index.ts";
import { contradictionOf, type TaskSettings, taskSchema } from "../../protocols/index.ts";
import { appErrors } from "../errors.ts";
import { type Configuration, type Framework, labelOf } from "./comparison.ts";
import type { ComparisonData, Partition } from "./deal.ts";
import { fieldOf, publicSizeField } from "./sweep.ts";

/** A task as a person writes it: fields with a default may be left out. */
export type TaskInput = z.input<typeof taskSchema>;

/** A device of the comparison; each is a process of this machine. */
export interface ComparisonDevice {
  readonly id: string;
  /** Declared for selection and for estimated energy; nothing slows the process down to it. */
  readonly board: BoardKey;
}

/** A comparison, everything resolved. */
export interface ComparisonPlan {
  readonly task: TaskInput;
  /** The embedded one when undefined. */
  readonly modelFolder?: string | undefined;
  readonly data: ComparisonData;
  readonly partition: Partition;
  /** Most training texts of one device. */
  readonly rowsPerDevice?: number | undefined;
  readonly minimumRows: number;
  /** Public texts of configurations that do not sweep them. */
  readonly publicSize: number;
  readonly devices: readonly ComparisonDevice[];
  /** Framework of each device in `mixed`, dealt round and round. */
  readonly mixed: readonly Exclude<Framework, "mixed">[];
  readonly configurations: readonly Configuration[];
  readonly seeds: readonly number[];
}

/** The task of one federation: the plan's with the swept options, the seed and each device's framework. */
export function taskOf(
  plan: ComparisonPlan,
  configuration: Configuration,
  seed: number,
): TaskInput {
  const minimumDevices = plan.devices.length;
  const { cohort, ...task } = plan.task;
  const chosen = frameworksOf(plan, configuration);
  const own: TaskInput = {
    ...task,
    seed,
    selection: { order: [...new Set(chosen.values())] },
    // Selection would give each device the first framework that fits it; here every one must run.
    assignments: [...chosen].map(([id, protocol]) => ({ devices: [id], protocol, force: true })),
    // Every device takes part in every round, unless the task says otherwise.
    cohort: { minimumDevices, ...cohort },
  };
  const defaults = defaultsOf(own);
  return Object.entries(configuration.options)
    .filter(([name]) => fieldOf(name) !== publicSizeField)
    .reduce((input, [name, value]) => withField(input, fieldOf(name), { value, defaults }), own);
}

/** Public texts of a configuration. */
export function publicSizeOf(plan: ComparisonPlan, { options }: Configuration): number {
  const swept = Object.entries(options).find(([name]) => fieldOf(name) === publicSizeField);
  return swept === undefined ? plan.publicSize : Number(swept[1]);
}

/** Framework of each device by id. */
function frameworksOf(
  { devices, mixed }: ComparisonPlan,
  { framework }: Configuration,
): ReadonlyMap<string, Exclude<Framework, "mixed">> {
  const dealt = (i: number) => mixed[i % mixed.length] as Exclude<Framework, "mixed">;
  return new Map(devices.map(({ id }, i) => [id, framework === "mixed" ? dealt(i) : framework]));
}

/** The task with its defaults; throws `OPTION_INVALID` naming the configuration and the field. */
export function checkedTask(
  plan: ComparisonPlan,
  configuration: Configuration,
  seed: number,
): TaskSettings {
  const size = publicSizeOf(plan, configuration);
  if (!Number.isSafeInteger(size) || size < 1)
    throw unusable(configuration, "publicSize", "must be a whole number of at least 1");
  const parsed = taskSchema.safeParse(taskOf(plan, configuration, seed));
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const field = [
      ...(issue?.path ?? []),
      ...(issue?.code === "unrecognized_keys" ? issue.keys : []),
    ];
    throw unusable(configuration, field.join("."), issue?.message ?? "is not valid");
  }
  const contradiction = contradictionOf(parsed.data);
  if (contradiction) throw unusable(configuration, contradiction.field, contradiction.problem);
  return parsed.data;
}

function unusable(configuration: Configuration, field: string, problem: string): Error {
  return appErrors.error("OPTION_INVALID", `${labelOf(configuration)}: ${field}: ${problem}`, {
    hint: "docs/task.md lists every field with its range and default.",
  });
}

/** The groups of the task with their defaults; none of a task that `checkedTask` will refuse. */
function defaultsOf(own: TaskInput): Readonly<Record<string, unknown>> {
  const parsed = taskSchema.safeParse(own);
  return parsed.success ? parsed.data : {};
}

/** A copy with one field set; a group that the task leaves out starts from its defaults. */
function withField(
  input: TaskInput,
  path: string,
  {
    value,
    defaults,
  }: { readonly value: unknown; readonly defaults: Readonly<Record<string, unknown>> },
): TaskInput {
  const [group = "", ...rest] = path.split(".");
  const start = { [group]: defaults[group], ...input };
  return setIn(start, [group, ...rest], value) as TaskInput;
}

function setIn(object: unknown, [name = "", ...rest]: readonly string[], value: unknown): object {
  const record = (typeof object === "object" && object !== null ? object : {}) as Readonly<
    Record<string, unknown>
  >;
  const inner = rest.length === 0 ? value : setIn(record[name], rest, value);
  return { ...record, [name]: inner };
}
