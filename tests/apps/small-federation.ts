// A federation small enough for a test: a random GPT-2 of two narrow blocks, tables of short synthetic
// texts, and the coordinator and device programs over a real broker.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import type { RunEvent } from "../../apps/coordinator/events.ts";
import { type JournalRecord, readJournal } from "../../apps/coordinator/journal.ts";
import { prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { type CoordinatorResult, startCoordinator } from "../../apps/coordinator/start.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { startDevice } from "../../apps/device/start.ts";
import { packageRoot } from "../../apps/package-root.ts";
import { boardProfile, type DeviceBudget } from "../../devices/index.ts";
import { builtInProtocols, type RoundCost, type Task } from "../../protocols/index.ts";
import {
  type Gpt2Config,
  randomStream,
  randomTensors,
  saveModelFolder,
} from "../../runtime/index.ts";

/** The model of these tests; its vocabulary is the embedded tokenizer's. */
export const smallConfig: Gpt2Config = {
  family: "gpt2",
  vocabSize: 2048,
  positions: 64,
  hiddenSize: 32,
  layers: 3,
  heads: 2,
  innerSize: 64,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};

/** A folder with a model, a test set and a public set. */
export interface SmallWorld {
  readonly folder: string;
  readonly modelFolder: string;
  readonly cacheFolder: string;
}

/** Writes the model and the shared tables below `folder`. */
export async function makeWorld(folder: string): Promise<SmallWorld> {
  const modelFolder = join(folder, "model");
  await saveModelFolder(modelFolder, smallConfig, randomTensors(smallConfig, 1));
  const tokenizer = join(packageRoot(), "models", "sotu-gpt2", "tokenizer.json");
  await copyFile(tokenizer, join(modelFolder, "tokenizer.json"));
  await writeFile(join(folder, "test.csv"), tableOf(smallTexts("test", 40)));
  await writeFile(join(folder, "public.csv"), tableOf(smallTexts("public", 12)));
  return { folder, modelFolder, cacheFolder: join(folder, "cache") };
}

/** A text with its label. */
export type LabelledText = readonly [text: string, label: string];

/** Texts of two topics that share no noun, the same ones for the same name. */
export function smallTexts(name: string, count: number): LabelledText[] {
  const random = randomStream("small", name);
  const nouns = { sea: ["whale", "ship", "harpoon", "sail"], land: ["farm", "tax", "law", "road"] };
  return Array.from({ length: count }, (_, i): LabelledText => {
    const label = i % 2 === 0 ? "sea" : "land";
    const words = Array.from({ length: 5 }, () => nouns[label][random.below(4)]);
    return [`the ${words.join(" and the ")}`, label];
  });
}

/** A CSV with the columns text and label. */
export function tableOf(rows: readonly LabelledText[]): string {
  return `text,label\n${rows.map(([text, label]) => `"${text}",${label}\n`).join("")}`;
}

/** Writes a task file; `settings` replace the small defaults group by group. Gives its path. */
export async function writeTask(
  { folder }: SmallWorld,
  name: string,
  settings: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const { training, ...others } = settings;
  const path = join(folder, `${name}.yaml`);
  const task = {
    name: "small",
    seed: 7,
    model: "model",
    head: { kind: "classification", labels: ["land", "sea"] },
    data: { test: "test.csv", public: "public.csv" },
    adapter: { rank: 4, alpha: 8, targets: ["c_attn"] },
    training: {
      rounds: 2,
      localSteps: 3,
      batchSize: 4,
      sequenceLength: 16,
      ...(training as object),
    },
    kd: { distillationSteps: 2 },
    labelsMayLeave: true,
    ...others,
  };
  await writeFile(path, stringify(task));
  return path;
}

/** Settings of `split` with which each round depends on what both ends remember of the one before. */
export const remembering = {
  reuse: { threshold: 0.05 },
  gradients: "int4",
  errorFeedback: true,
} as const;

/** The frameworks. */
export type Framework = "full" | "kd" | "split";

/** A device of a test. */
export interface SmallDevice {
  readonly id: string;
  /** What its budget leaves it; without one there is no limit. */
  readonly framework?: Framework;
  /** In place of what `framework` implies. */
  readonly budget?: DeviceBudget;
  /** What its configuration lists; the built-in ones unless told. */
  readonly protocols?: readonly string[];
  /** 20 texts of its own unless told. */
  readonly rows?: readonly LabelledText[];
  /** False: its table has no column of labels. */
  readonly hasLabels?: boolean;
  /** Has no model: it fetches what it needs. */
  readonly isBare?: boolean;
  /** What its configuration says of a model of its own; it then lacks the task's. */
  readonly ownModel?: { readonly model: string; readonly adapter: object };
}

/** Where a device's files are. */
export interface DeviceFiles {
  readonly data: string;
  readonly config: string;
  readonly state: string;
}

/** Writes a device's table and configuration; the state folder belongs to `run`. */
export async function writeDevice(
  world: SmallWorld,
  device: SmallDevice,
  { task: taskFile, run }: { readonly task: string; readonly run: string },
): Promise<DeviceFiles> {
  const { id, framework, protocols, ownModel } = device;
  const { rows = smallTexts(id, 20), hasLabels = true } = device;
  const folder = `${run}-devices`;
  await mkdir(folder, { recursive: true });
  const file = (suffix: string) => join(folder, `${id}${suffix}`);
  const { task } = await prepareTask(await readTaskFile(taskFile), world.cacheFolder);
  const implied = framework === undefined ? {} : budgetFor(task, framework, rows.length);
  const budget = device.budget ?? implied;
  const own = ownModel ? { kd: ownModel } : {};
  const listed = protocols === undefined ? {} : { protocols };
  const config = { threads: 1, profile: boardProfile("pi-5"), budget, ...listed, ...own };
  const table = tableOf(rows);
  await writeFile(file(".csv"), hasLabels ? table : table.replace(/,(label|land|sea)$/gm, ""));
  await writeFile(file(".yaml"), stringify(config));
  return { data: file(".csv"), config: file(".yaml"), state: file("-state") };
}

/** Limits that only this framework keeps, from the estimates themselves. */
function budgetFor(task: Task, framework: Framework, rows: number): DeviceBudget {
  const holdOut = Math.floor(0.2 * rows);
  // As the coordinator counts them: what reuse keeps grows with the texts.
  const counts = { train: rows - holdOut, holdOut };
  const cost = (name: Framework): RoundCost => {
    const protocol = builtInProtocols.find((known) => known.name === name);
    if (!protocol) throw new Error(`${name} is not built in`);
    return protocol.estimate(task, { ...counts, ...(name === "split" ? { cutLayer: 1 } : {}) });
  };
  switch (framework) {
    case "full":
      return {};
    case "kd":
      return { uplinkBytesPerRound: cost("kd").uplinkBytes };
    case "split":
      return { trainingMemoryBytes: cost("split").peakMemoryBytes };
  }
}

/** Where a device takes part. */
export interface JoinOptions {
  readonly task: string;
  readonly run: string;
  readonly address: string;
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

/** Runs a device in this process until the task is finished. */
export async function joinDevice(
  world: SmallWorld,
  device: SmallDevice,
  { task, run, address, signal, log }: JoinOptions,
): Promise<void> {
  const files = await writeDevice(world, device, { task, run });
  const { id, hasLabels = true } = device;
  const labelColumn = hasLabels && ("label" as const);
  const columns = { textColumn: "text", labelColumn };
  const { modelFolder, cacheFolder } = world;
  const model = device.ownModel || device.isBare ? {} : { model: modelFolder };
  const place = { broker: address, federation: "main", ...model, cacheFolder };
  await startDevice({ id, ...place, ...files, ...columns, signal, log });
}

/** What one federation is run with. */
export interface FederateOptions {
  readonly task: string;
  readonly run: string;
  readonly devices: readonly SmallDevice[];
  /** Processes that run the lanes of `split`. */
  readonly splitWorkers?: number;
  /** Called with each line that the coordinator logs. */
  readonly onLog?: (line: string) => void;
  /** Packages of the coordinator. */
  readonly protocols?: readonly string[];
  /** Another broker than the coordinator's own. */
  readonly broker?: string;
  /** The address that devices get, if it is not the broker's. */
  readonly addressFor?: (brokerUrl: string) => Promise<string>;
  readonly onEvent?: (event: RunEvent) => void;
}

/** What a federation leaves. */
export interface Federated {
  readonly result: CoordinatorResult;
  readonly runFolder: string;
  readonly events: readonly RunEvent[];
  readonly records: readonly JournalRecord[];
  /** Of adapter_model.safetensors. */
  readonly adapter: Buffer;
  /** What coordinator and devices logged. */
  readonly log: readonly string[];
}

/** Runs coordinator and devices in this process to the task's end; the first failure ends all. */
export async function federate(world: SmallWorld, options: FederateOptions): Promise<Federated> {
  const { task, run, broker, devices, addressFor = async (url: string) => url } = options;
  const { cacheFolder } = world;
  const failed = new AbortController();
  const log: string[] = [];
  const events: RunEvent[] = [];
  const running: Promise<void>[] = [];
  const startAll = async (brokerUrl: string): Promise<void> => {
    const place = { task, run, address: await addressFor(brokerUrl), signal: failed.signal };
    for (const device of devices) {
      const note = (line: string) => log.push(`${device.id}: ${line}`);
      const joined = joinDevice(world, device, { ...place, log: note });
      running.push(joined.catch((error: unknown) => failed.abort(error)));
    }
  };
  try {
    const result = await startCoordinator({
      task,
      run,
      federation: "main",
      ...(broker === undefined
        ? { listen: ["mqtt://127.0.0.1:0"], anonymous: true }
        : { broker, trustBroker: true }),
      threads: 1,
      cacheFolder,
      ...(options.splitWorkers === undefined ? {} : { splitWorkers: options.splitWorkers }),
      ...(options.protocols ? { protocol: options.protocols } : {}),
      signal: failed.signal,
      onEvent: (event) => {
        events.push(event);
        options.onEvent?.(event);
        if (event.kind === "refused") failed.abort(new Error(`${event.code}: ${event.message}`));
      },
      onListening: (url) => void startAll(url).catch((error: unknown) => failed.abort(error)),
      log: (line) => {
        log.push(`coordinator: ${line}`);
        options.onLog?.(line);
      },
    });
    await Promise.all(running);
    const records = await readJournal(join(run, "journal", "records.jsonl"));
    const adapter = await adapterOf(run);
    return { result, runFolder: run, events, records, adapter, log };
  } finally {
    failed.abort(new Error("the test is over"));
    await Promise.all(running);
  }
}

/** What selection chose for each device. */
export function frameworksOf({ events }: Federated): Record<string, string> {
  const assigned = events.flatMap((event) =>
    event.kind === "assigned" && event.selection.assignment ? [event.selection.assignment] : [],
  );
  return Object.fromEntries(
    assigned
      .map(({ deviceId, protocol, cutLayer }): [string, string] => {
        return [deviceId, cutLayer === undefined ? protocol : `${protocol} (cut ${cutLayer})`];
      })
      .sort(),
  );
}

/** The adapter's weights in a run folder. */
export async function adapterOf(run: string): Promise<Buffer> {
  return await readFile(join(run, "adapter", "adapter_model.safetensors"));
}
