// The comparison file: a task file with two groups more, `devices` and `compare`, and with training texts in `data`.
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { boardKeys } from "../../devices/index.ts";
import { taskSchema } from "../../protocols/index.ts";
import { readTable } from "../../runtime/index.ts";
import { taskFileFaults } from "../coordinator/task-file.ts";
import { loadCorpus } from "../demo/corpus.ts";
import { DEMO_LABELS, passagesOf } from "../demo/dataset.ts";
import { columnsOf } from "../examples.ts";
import { checkYaml, readYamlFile, type YamlFile } from "../yaml-file.ts";
import { type Framework, frameworks } from "./comparison.ts";
import { type ComparisonData, unlabelled } from "./deal.ts";
import type { ComparisonPlan, TaskInput } from "./plan.ts";
import { configurationsOf, type Sweep } from "./sweep.ts";

const name = z.string().min(1);
const count = z.int().positive();
const single = z.enum(["full", "kd", "split"]);

const tables = z.strictObject({
  /** CSV of the texts that are dealt to the devices. */
  train: name,
  /** CSV the global model is scored on after each round. */
  test: name,
  /** CSV of the public set; taken from `train` when left out. */
  public: name.optional(),
  textColumn: name.default("text"),
  labelColumn: name.default("label"),
});

const comparisonSchema = taskSchema.extend({
  /** Folder of the base model; the embedded one when left out. */
  model: name.optional(),
  /** `demo`: the State of the Union passages of the demo, labels before-1900 and since-1900. */
  data: z.union([z.literal("demo"), tables]),
  devices: z
    .strictObject({
      count: count.max(64).default(3),
      /** `iid`, or each label shared out by a draw of Dirichlet(alpha). */
      partition: z
        .union([z.literal("iid"), z.strictObject({ dirichlet: z.number().positive() })])
        .default("iid"),
      /** Most training texts of one device. */
      rows: count.optional(),
      /** A draw that leaves a device fewer texts is drawn again. */
      minimumRows: count.default(20),
      /** Catalogue boards that the devices declare themselves to be, dealt round and round. */
      boards: z.array(z.enum(boardKeys)).min(1).default(["pi-5"]),
    })
    .prefault({}),
  compare: z
    .strictObject({
      frameworks: z
        .array(z.enum(frameworks))
        .min(1)
        .default([...frameworks]),
      /** Framework of each device in `mixed`, dealt round and round. */
      mixed: z.array(single).min(1).default(["full", "split", "kd"]),
      /** Values of options by name. */
      sweep: z
        .record(z.string(), z.array(z.union([z.string(), z.number(), z.boolean()])).min(1))
        .default({}),
      /** Every configuration is run under so many seeds, from the task's on. */
      seeds: count.max(30).default(1),
      /** Texts of the public set. */
      publicSize: count.default(300),
    })
    .prefault({}),
});

/** What the command line may set in place of the file. */
export interface ComparisonOverrides {
  readonly frameworks?: readonly Framework[];
  readonly sweep?: Sweep;
  readonly seeds?: number;
  readonly devices?: number;
}

/**
 * Reads a comparison file and its data. Throws `TASK_FILE_MISSING` or `TASK_FILE_INVALID` (file:line: field: what is
 * wrong) and the errors of the data (`DATA_*`).
 */
export async function readComparison(
  path: string,
  overrides: ComparisonOverrides = {},
): Promise<ComparisonPlan> {
  const faults = taskFileFaults(path);
  const file = await readYamlFile(path, faults);
  const settings = checkYaml(file, comparisonSchema, faults);
  for (const field of ["assignments", "selection"]) {
    if (file.has(field)) {
      const problem = "a comparison assigns the frameworks itself";
      throw faults.invalid(file.faultText([field], problem));
    }
  }
  const { compare, devices, model, data, head } = settings;
  if (
    data === "demo" &&
    head.kind !== "lm" &&
    head.labels.toSorted().join() !== DEMO_LABELS.join()
  ) {
    const problem = `data: demo has the labels ${DEMO_LABELS.join(" and ")}`;
    throw faults.invalid(file.faultText(["head", "labels"], problem));
  }
  if (head.kind === "lm" && devices.partition !== "iid") {
    const problem = "the texts of a language model have no labels to skew";
    throw faults.invalid(file.faultText(["devices", "partition"], problem));
  }
  const absolute = (relative: string) => resolve(dirname(path), relative);
  const ids = Array.from(
    { length: overrides.devices ?? devices.count },
    (_, i) => `device-${i + 1}`,
  );
  const boards = devices.boards;
  const { partition } = devices;
  return {
    task: taskOf(file),
    modelFolder: model === undefined ? undefined : absolute(model),
    data: await readData(settings, absolute),
    partition:
      partition === "iid" ? { kind: "iid" } : { kind: "dirichlet", alpha: partition.dirichlet },
    rowsPerDevice: devices.rows,
    minimumRows: devices.minimumRows,
    publicSize: compare.publicSize,
    devices: ids.map((id, i) => ({ id, board: boards[i % boards.length] ?? "pi-5" })),
    mixed: compare.mixed,
    configurations: configurationsOf(overrides.frameworks ?? compare.frameworks, {
      ...compare.sweep,
      ...overrides.sweep,
    }),
    seeds: Array.from({ length: overrides.seeds ?? compare.seeds }, (_, i) => settings.seed + i),
  };
}

type ComparisonSettings = z.output<typeof comparisonSchema>;

/** The file's own words, so that a default that was not written stays unwritten in each run's task. */
function taskOf({ value }: YamlFile): TaskInput {
  const {
    model: _,
    data: __,
    devices: ___,
    compare: ____,
    ...task
  } = value as TaskInput & Readonly<Record<string, unknown>>;
  return task;
}

async function readData(
  settings: ComparisonSettings,
  absolute: (path: string) => string,
): Promise<ComparisonData> {
  const { data, head } = settings;
  if (data === "demo") {
    const { training, test } = passagesOf(await loadCorpus());
    return head.kind === "lm"
      ? { train: unlabelled(training), test: unlabelled(test) }
      : { train: training, test };
  }
  const { textColumn, labelColumn } = data;
  const columns = columnsOf({ head }, { textColumn, labelColumn });
  return {
    train: await readTable(absolute(data.train), columns),
    test: await readTable(absolute(data.test), columns),
    ...(data.public && { public: await readTable(absolute(data.public), { textColumn }) }),
  };
}
