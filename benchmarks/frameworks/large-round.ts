// One round of GPT-2 124M shapes with random weights: a full, a split and a kd device over the broker.
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { withShape } from "../../apps/bench/shape.ts";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import type { Row } from "../row.ts";
import { type Ground, plainly, speechPlan } from "./plans.ts";
import { command, type Study } from "./study.ts";

/** Runs the study on the shapes; its random weights are written before and removed after. */
export async function largeRound(
  ground: Ground,
  { cacheFolder, signal, log, run }: LargeRoundOptions,
): Promise<readonly Row[]> {
  return await withShape("gpt2-small", { cacheFolder, keep: false, signal, log }, async (place) => {
    // Any tokenizer of fewer tokens than the model's vocabulary serves.
    const tokenizer = "tokenizer.json";
    await copyFile(join(embeddedModelFolder(), tokenizer), join(place.model, tokenizer));
    return await run(studyOf(ground, place.model), place.cacheFolder);
  });
}

/** What the round is run with. */
export interface LargeRoundOptions {
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
  readonly log: (message: string) => void;
  readonly run: (study: Study, cacheFolder: string) => Promise<readonly Row[]>;
}

function studyOf(ground: Ground, modelFolder: string): Study {
  const { seeds, speeches } = ground;
  const few = { ...speeches, test: speeches.test.slice(0, 16) };
  const plan = speechPlan({ ...ground, seeds: seeds.slice(0, 1) }, plainly("mixed"), {
    data: few,
    modelFolder,
    rowsPerDevice: 40,
    publicSize: 16,
    training: { rounds: 1, localSteps: 4, batchSize: 4, sequenceLength: 64 },
  });
  return {
    name: "gpt2",
    plan,
    rows: ({ configurations }) => {
      const [run] = configurations[0]?.perSeed ?? [];
      const figure = "GPT-2 124M shapes, one round of full + split + kd";
      const known = (name: string, unit: string, value: number | undefined): Row => {
        return { figure: `${figure}: ${name}`, value, unit, spread: 0, command };
      };
      const completes = known(
        "rounds closed with all three",
        "rounds",
        run?.rounds.filter(({ devices }) => devices === 3).length,
      );
      return [
        { ...completes, mustReach: { relation: ">=", limit: 1 } },
        known("up, a device", "MB", (run?.uplinkBytesPerDeviceRound ?? 0) / 1e6),
        known("down, a device", "MB", (run?.downlinkBytesPerDeviceRound ?? 0) / 1e6),
        known("time", "s", run?.secondsPerRound),
        known("highest peak of a device", "MiB", (run?.peakMemoryBytes ?? 0) / 2 ** 20),
      ];
    },
  };
}
