// The model that a benchmark runs on: a folder of the user's, or GPT-2 124M with random weights.
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { askBench } from "./probe.ts";
import { type ModelPlace, randomGpt2Place } from "./random-weights.ts";

/** The one shape that has a name; any other text is a model folder. */
const randomShape = "gpt2-small";

/** Where the model is to lie, and who is told. */
export interface ShapeOptions {
  readonly cacheFolder: string;
  /** Leave random weights for the next run. */
  readonly keep: boolean;
  readonly signal: AbortSignal;
  readonly log: (message: string) => void;
}

/** Runs `use` on the model; random weights are made before, and removed after unless they are to be kept. */
export async function withShape<T>(
  shape: string,
  { cacheFolder, keep, signal, log }: ShapeOptions,
  use: (place: ModelPlace) => Promise<T>,
): Promise<T> {
  if (shape !== randomShape) return await use({ model: shape, cacheFolder });
  const kept = join(cacheFolder, `random-${randomShape}`);
  if (existsSync(kept)) return await use(randomGpt2Place(kept));
  log(`writing random weights, 0.75 GB below ${cacheFolder} ...`);
  await mkdir(cacheFolder, { recursive: true });
  const building = await mkdtemp(join(cacheFolder, `random-${randomShape}-`));
  try {
    await askBench("weights", { folder: building }, { signal });
    if (!keep) return await use(randomGpt2Place(building));
    // Complete only now; a run that was killed before leaves nothing that the next one would take.
    await rename(building, kept);
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  log(`kept in ${kept}`);
  return await use(randomGpt2Place(kept));
}
