// Where a device finds the base model a task names: the folder it was given, a copy in its state folder, the embedded model.
// Equal hashes mean equal numbers, so a wrong model is never trained. Whoever finds none here fetches it (provisioning.ts).
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { OwnModel, Task } from "../../protocols/index.ts";
import { type ModelAndTokenizer, openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { embeddedModelFolder } from "../package-root.ts";
import type { OwnModelPlace } from "./config.ts";

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
  /** The task's, where the device was given it. */
  readonly base: ModelAndTokenizer | undefined;
  readonly own: (ModelAndTokenizer & { readonly facts: OwnModel }) | undefined;
}

/** Opens the device's own model, if it has one, and the task's, if it was given it. */
export async function findModels(task: Task, places: ModelPlaces): Promise<FoundModels> {
  const { ownModel, cacheFolder } = places;
  const base = await findModel(task, places);
  if (!ownModel) return { base, own: undefined };
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
  return { base, own: { ...opened, facts } };
}

/** Opens the task's model, or gives nothing where no place has it. */
async function findModel(task: Task, places: ModelPlaces): Promise<ModelAndTokenizer | undefined> {
  const { modelSha256, tokenizerSha256 } = task.manifest;
  for (const folder of candidates(modelSha256, places)) {
    const found = existsSync(folder)
      ? await openModelAndTokenizer(folder, places.cacheFolder)
      : undefined;
    if (found?.model.sha256 === modelSha256 && found.tokenizer.sha256 === tokenizerSha256)
      return found;
  }
  return undefined;
}

function candidates(sha256: string, { modelFolder, stateFolder }: ModelPlaces): string[] {
  const given = modelFolder === undefined ? [] : [modelFolder];
  return [...given, join(stateFolder, "models", sha256), embeddedModelFolder()];
}
