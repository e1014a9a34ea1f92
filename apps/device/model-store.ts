// Where a device finds the base model a task names: the folder it was given, its own store by hash, the
// embedded model. Equal hashes mean equal numbers, so a wrong model is never trained.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { OwnModel, Task } from "../../protocols/index.ts";
import { TrifoldError } from "../../runtime/index.ts";
import { type ModelAndTokenizer, openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { embeddedModelFolder } from "../package-root.ts";
import type { OwnModelPlace } from "./config.ts";
import { deviceProgramErrors } from "./errors.ts";

/** Where to look. */
export interface ModelPlaces {
  /** `--model`. */
  readonly modelFolder: string | undefined;
  /** Holds `models/<sha256>`. */
  readonly stateFolder: string;
  /** A model of the device's own for protocols that leave it the choice. */
  readonly ownModel?: OwnModelPlace | undefined;
  /** For the float32 files that sessions map. */
  readonly cacheFolder: string;
}

/** The models of a device. */
export interface FoundModels {
  /** The task's; only a device with a model of its own may lack it. */
  readonly base: ModelAndTokenizer | undefined;
  readonly own: (ModelAndTokenizer & { readonly facts: OwnModel }) | undefined;
}

/** Opens the device's own model, if it has one, and the task's; throws `DEVICE_MODEL_MISSING` without either. */
export async function findModels(task: Task, places: ModelPlaces): Promise<FoundModels> {
  const { ownModel, cacheFolder } = places;
  if (!ownModel) return { base: await findModel(task, places), own: undefined };
  const opened = await openModelAndTokenizer(ownModel.folder, cacheFolder);
  const { model, tokenizer } = opened;
  // Of ranks there is no choice for a model whose parameters never travel.
  const { ranks: _, ...shared } = task.adapter;
  const facts: OwnModel = {
    modelSha256: model.sha256,
    tokenizerSha256: tokenizer.sha256,
    config: model.config,
    adapter: ownModel.adapter ?? shared,
  };
  const base = await findModel(task, places).catch((error: unknown) => {
    if (error instanceof TrifoldError && error.code === "DEVICE_MODEL_MISSING") return undefined;
    throw error;
  });
  return { base, own: { ...opened, facts } };
}

/** Opens the task's model; throws `DEVICE_MODEL_MISSING` naming every place and what was found there. */
async function findModel(task: Task, places: ModelPlaces): Promise<ModelAndTokenizer> {
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
