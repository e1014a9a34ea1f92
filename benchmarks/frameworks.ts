// Suite `frameworks`: what the frameworks' options cost in accuracy and save in bytes, in federations over the real
// broker; differences are paired by seed. Finished runs below `--out` are read again, so that an interrupted suite goes on.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { defaultCacheFolder } from "../apps/cache-folder.ts";
import { labelOf } from "../apps/compare/comparison.ts";
import { type ComparisonProgress, runComparison } from "../apps/compare/run-comparison.ts";
import { interruptSignal } from "../apps/interrupt.ts";
import { largeRound } from "./frameworks/large-round.ts";
import { openGround } from "./frameworks/plans.ts";
import { studiesOf } from "./frameworks/studies.ts";
import type { Study } from "./frameworks/study.ts";
import type { Row } from "./row.ts";

/** What the suite is run with. */
export interface FrameworksOptions {
  /** Folder with banking77/train.csv and test.csv; rows that need them are left unmeasured without it. */
  readonly data?: string;
  /** Federations of each configuration. */
  readonly seeds: number;
  /** Name of the only study to run; all when left out. */
  readonly only?: string;
  /** Keeps the run folders and goes on in them; a temporary folder when left out. */
  readonly out?: string;
  readonly log: (message: string) => void;
}

/** Runs every study; rejects with the interruption after Ctrl-C, all processes ended. */
export async function frameworksRows(options: FrameworksOptions): Promise<readonly Row[]> {
  const { data, seeds, only, log } = options;
  const { signal, close } = interruptSignal();
  const out = options.out ?? (await mkdtemp(join(tmpdir(), "trifold-bench-")));
  const cache = defaultCacheFolder();
  const run = async (study: Study, cacheFolder: string) => {
    const folder = join(resolve(out), study.name);
    return await measure(study, { out: folder, cacheFolder, signal, log });
  };
  const wants = (name: string) => only === undefined || only === name;
  try {
    const ground = await openGround(seeds, data);
    const studies = studiesOf(ground);
    const names = [...studies.map(({ name }) => name), "gpt2"];
    if (!names.some(wants)) throw new Error(`--only must be one of ${names.join(", ")}`);
    const rows: Row[] = [];
    for (const study of studies) {
      if (!wants(study.name)) continue;
      rows.push(...("missing" in study ? study.missing : await run(study, cache)));
    }
    const place = { cacheFolder: cache, signal, log, run };
    return wants("gpt2") ? [...rows, ...(await largeRound(ground, place))] : rows;
  } finally {
    close();
    if (options.out === undefined) await rm(out, { recursive: true, force: true });
  }
}

async function measure(
  { name, plan, withBaselines = false, rows }: Study,
  place: {
    readonly out: string;
    readonly cacheFolder: string;
    readonly signal: AbortSignal;
    readonly log: FrameworksOptions["log"];
  },
): Promise<readonly Row[]> {
  const { log, ...rest } = place;
  const result = await runComparison({
    ...plan,
    ...rest,
    withBaselines,
    onProgress: (progress) => {
      const text = progressText(progress);
      if (text !== undefined) log(`${name}: ${text}`);
    },
  });
  return rows(result);
}

/** A line for each federation; its rounds are in its own log. */
function progressText(progress: ComparisonProgress): string | undefined {
  if (progress.kind !== "run") return undefined;
  const { index, total, configuration, seed, isKnown } = progress;
  const known = isKnown ? " (known)" : "";
  return `${index} of ${total}: ${labelOf(configuration)}, seed ${seed}${known}`;
}
