// Where a device finds the base model a task names: the folder it was given, its own store by hash, the
// embedded model. Equal hashes mean equal numbers, so a wrong model is never trained.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Task } from "../../protocols/index.ts";
import { type ModelAndTokenizer, openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { embeddedModelFolder } from "../package-root.ts";
import { deviceProgramErrors } from "./errors.ts";

/** Where to look. */
export interface ModelPlaces {
  /** `--model`. */
  readonly modelFolder: string | undefined;
  /** Holds `models/<sha256>`. */
  readonly stateFolder: string;
  /** For the float32 files that sessions map. */
  readonly cacheFolder: string;
}

/** Opens the task's model; throws `DEVICE_MODEL_MISSING` naming every place and what was found there. */
export async function findModel(task: Task, places: ModelPlaces): Promise<ModelAndTokenizer> {
  const { modelSha256, tokenizerSha256 } = task.manifest;
  const seen: string[] = [];
  for (const folder of candidates(modelSha256, places)) {
    const found = existsSync(folder)
      ? await openModelAndTokenizer(folder, places.cacheFolder)
      : undefined;
    if (found?.model.sha256 === modelSha256 && found.tokenizer.sha256 === tokenizerSha256)
      return found;
    seen.push(`${folder}: ${found ? `model ${found.model.sha256.slice(0, 12)}` : "nothing"}`);
  }
  const store = join(places.stateFolder, "models", modelSha256);
  throw deviceProgramErrors.error(
    "DEVICE_MODEL_MISSING",
    `the task needs model ${modelSha256.slice(0, 12)}; looked in ${seen.join(", ")}`,
    {
      hint: `Copy the coordinator's model folder to ${store}, or start the device with --model FOLDER.`,
    },
  );
}

function candidates(sha256: string, { modelFolder, stateFolder }: ModelPlaces): string[] {
  const given = modelFolder === undefined ? [] : [modelFolder];
  return [...given, join(stateFolder, "models", sha256), embeddedModelFolder()];
}
