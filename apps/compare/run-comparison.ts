// Runs a comparison: one federation after another over a broker of its own, then the baselines. What is finished is
// read from the output folder, what is unfinished goes on where it stopped.
import { createWriteStream, existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { cpus } from "node:os";
import { join, resolve } from "node:path";
import type { DeviceProfile } from "../../devices/index.ts";
import type { TaskSettings } from "../../protocols/index.ts";
import { openBaseModel } from "../../runtime/index.ts";
import type { BaselineOptions } from "../baselines.ts";
import { eventText } from "../coordinator/event-text.ts";
import type { RunEvent } from "../coordinator/events.ts";
import { journalFile, readJournal } from "../coordinator/journal.ts";
import { checkTaskFits } from "../coordinator/task-fit.ts";
import { embeddedModelFolder, packageVersion } from "../package-root.ts";
import type { StartBoard } from "../virtual-boards/board-process.ts";
import { runVirtualFederation } from "../virtual-boards/federation.ts";
import type { ComparisonResult, Configuration, SeedFigures } from "./comparison.ts";
import { dealRows, partitionText } from "./deal.ts";
import { type ComparisonPlan, checkedTask, publicSizeOf } from "./plan.ts";
import { figuresOf } from "./run-figures.ts";
import { type RunPlace, writeRunInputs, writeSeedFiles } from "./run-inputs.ts";
import type { Score } from "./score.ts";
import { type SeedBaselines, seedBaselines } from "./seed-baselines.ts";
import { type ConfigurationRuns, summariseBaselines, summariseConfigurations } from "./summary.ts";
import { verdictsOf } from "./verdicts.ts";

/** How a comparison is run. */
export interface ComparisonOptions extends ComparisonPlan {
  /** Folder of all runs; the same plan goes on in it. */
  readonly out: string;
  /** Also train the baselines. */
  readonly withBaselines: boolean;
  readonly cacheFolder: string;
  /** How devices are started: processes when left out, without which peak memory is the comparison's own. */
  readonly start?: StartBoard;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: ComparisonProgress) => void;
}

/** What a comparison does now. */
export type ComparisonProgress =
  | {
      readonly kind: "run";
      /** From 1. */
      readonly index: number;
      readonly total: number;
      readonly configuration: Configuration;
      readonly seed: number;
      /** It was finished before and is only read. */
      readonly isKnown: boolean;
    }
  | { readonly kind: "event"; readonly event: RunEvent }
  | {
      readonly kind: "finished";
      readonly configuration: Configuration;
      readonly figures: SeedFigures;
      readonly metric: Score["metric"];
    }
  | ({ readonly kind: "baseline"; readonly seed: number } & Parameters<
      BaselineOptions["onProgress"]
    >[0]);

/**
 * Runs everything that is not finished yet and gives what compare.json holds. Wrong settings are refused before anything
 * runs; rejects with the signal's reason when stopped, all processes ended.
 */
export async function runComparison(options: ComparisonOptions): Promise<ComparisonResult> {
  const { configurations, seeds } = options;
  const out = resolve(options.out);
  await mkdir(out, { recursive: true });
  const tasks = await checkConfigurations(options);
  const metric = metricOf(tasks[0] as TaskSettings);
  const all = configurations.map((configuration) => ({
    configuration,
    runs: [] as SeedFigures[],
  }));
  const baselines: SeedBaselines[] = [];
  for (const [seedIndex, seed] of seeds.entries()) {
    const files = await writeSeedFiles(out, options, seed, dealFor(options, seed));
    for (const [i, { configuration, runs }] of all.entries()) {
      const place = await writeRunInputs(out, options, configuration, files);
      const index = seedIndex * configurations.length + i + 1;
      const isKnown = await isFinished(place, tasks[i]);
      const total = configurations.length * seeds.length;
      options.onProgress({ kind: "run", index, total, configuration, seed, isKnown });
      if (!isKnown) await federate(options, place);
      const figures = await readFigures(place, seed);
      runs.push(figures);
      options.onProgress({ kind: "finished", configuration, figures, metric });
    }
    if (options.withBaselines) baselines.push(await seedBaselines(options, files, out));
  }
  return resultOf(options, { metric, all, baselines });
}

/** Every configuration's task with its defaults, checked against the model; the first seed stands for all. */
async function checkConfigurations(options: ComparisonOptions): Promise<readonly TaskSettings[]> {
  const { configurations, seeds, modelFolder, cacheFolder } = options;
  const folder = modelFolder ?? embeddedModelFolder();
  const { config } = await openBaseModel(folder, { cacheFolder });
  return configurations.map((configuration) => {
    const settings = checkedTask(options, configuration, seeds[0] ?? 1);
    checkTaskFits({ path: options.task.name, settings }, config);
    return settings;
  });
}

function dealFor(options: ComparisonOptions, seed: number) {
  const { data, partition, rowsPerDevice, minimumRows, devices, configurations } = options;
  const sizes = configurations.map((configuration) => publicSizeOf(options, configuration));
  return dealRows(data, {
    seed,
    deviceIds: devices.map(({ id }) => id),
    partition,
    rowsPerDevice,
    minimumRows,
    publicSize: Math.max(options.publicSize, ...sizes),
  });
}

/** The report is written after the last round. */
async function isFinished({ runFolder }: RunPlace, task: TaskSettings | undefined) {
  if (!existsSync(join(runFolder, "report.json"))) return false;
  const records = await readJournal(journalFile(runFolder));
  const closed = records.filter(({ kind }) => kind === "closed").length;
  return closed >= (task?.training.rounds ?? Number.POSITIVE_INFINITY);
}

async function federate(options: ComparisonOptions, place: RunPlace): Promise<void> {
  const { modelFolder, cacheFolder, start, signal, onProgress } = options;
  const log = createWriteStream(join(place.runFolder, "coordinator.log"), { flags: "a" });
  const write = (line: string) => void log.write(`${line}\n`);
  try {
    await runVirtualFederation({
      start,
      ...place,
      modelFolder,
      cacheFolder,
      signal,
      onEvent: (event) => {
        const text = eventText(event);
        if (text !== undefined) write(text);
        onProgress({ kind: "event", event });
      },
      log: write,
    });
  } finally {
    log.end();
  }
}

async function readFigures({ runFolder }: RunPlace, seed: number): Promise<SeedFigures> {
  const records = await readJournal(journalFile(runFolder));
  const known = JSON.parse(await readFile(join(runFolder, "profiles.json"), "utf8")) as Record<
    string,
    { readonly profile: DeviceProfile }
  >;
  const profiles = Object.fromEntries(
    Object.entries(known).map(([id, { profile }]) => [id, profile]),
  );
  return figuresOf({ seed, runFolder, records, profiles });
}

function metricOf({ head }: TaskSettings): Score["metric"] {
  return head.kind === "lm" ? "perplexity" : "accuracy";
}

function resultOf(
  options: ComparisonOptions,
  found: {
    readonly metric: Score["metric"];
    readonly all: readonly ConfigurationRuns[];
    readonly baselines: readonly SeedBaselines[];
  },
): ComparisonResult {
  const { metric, all, baselines } = found;
  const { task, devices, partition, seeds, data } = options;
  const majority = metric === "accuracy" ? { majority: majorityOf(data.test) } : {};
  return {
    task: {
      name: task.name,
      metric,
      seeds,
      devices: devices.length,
      partition: partitionText(partition),
      ...majority,
      settings: task,
    },
    configurations: summariseConfigurations(metric, all),
    baselines: baselines.length > 0 ? summariseBaselines(metric, baselines) : [],
    verdicts: verdictsOf(metric, all),
    machine: `${cpus().length} x ${cpus()[0]?.model.trim() ?? "processor"}, Node ${process.version}`,
    version: packageVersion(),
    date: new Date().toISOString(),
  };
}

function majorityOf(rows: ComparisonPlan["data"]["test"]): number {
  const counts = new Map<string, number>();
  for (const { label = "" } of rows) counts.set(label, (counts.get(label) ?? 0) + 1);
  return Math.max(...counts.values()) / rows.length;
}
