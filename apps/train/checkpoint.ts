// The state of a training that is not finished: one file beside the adapter, always whole, from which a later run goes on
// with the same numbers.
import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import {
  type Float32Tensor,
  momentNames,
  type OptimizerKind,
  type OptimizerState,
  type Parameters,
  readSafetensors,
  type SafetensorsFile,
  sameShape,
  TrifoldError,
  writeSafetensors,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { differencesOf, type TrainingSettings } from "./training-settings.ts";

/** Sums over the steps made so far. */
export interface TrainingTotals {
  readonly loss: number;
  readonly flops: number;
  readonly seconds: number;
}

/** What a checkpoint holds. */
export interface Checkpoint {
  readonly settings: TrainingSettings;
  readonly totals: TrainingTotals;
  readonly parameters: Parameters;
  readonly state: OptimizerState;
}

/** What a checkpoint must fit to be gone on from. */
export interface CheckpointFit {
  readonly settings: TrainingSettings;
  readonly optimizer: OptimizerKind;
  /** The parameters before the first step: names and shapes. */
  readonly initial: Parameters;
}

/** Whether an adapter folder holds the checkpoint of a training that is not finished. */
export function hasCheckpoint(out: string): boolean {
  return existsSync(fileOf(out));
}

/** Replaces the checkpoint of an adapter folder as a whole. */
export async function writeCheckpoint(out: string, checkpoint: Checkpoint): Promise<void> {
  const { settings, totals, parameters, state } = checkpoint;
  const groups = [["parameter", parameters] as const, ...state.moments];
  const tensors = groups.flatMap(([group, named]) =>
    [...named].map(([name, tensor]) => [`${group}/${name}`, tensor] as const),
  );
  await mkdir(folderOf(out), { recursive: true });
  await writeSafetensors(fileOf(out), new Map(tensors), {
    metadata: {
      format: "1",
      settings: JSON.stringify(settings),
      progress: JSON.stringify({ ...totals, steps: state.steps }),
    },
  });
}

/** Reads a checkpoint; throws `CHECKPOINT_MISSING`, `CHECKPOINT_INVALID`, or `CHECKPOINT_MISMATCH` naming what differs. */
export async function readCheckpoint(out: string, fit: CheckpointFit): Promise<Checkpoint> {
  const file = fileOf(out);
  if (!hasCheckpoint(out)) {
    throw appErrors.error("CHECKPOINT_MISSING", `${file} does not exist`, {
      hint: "A finished training leaves none. Leave --resume out to start from the beginning.",
    });
  }
  try {
    return await readFitting(await readSafetensors(file), fit);
  } catch (cause) {
    if (!(cause instanceof TrifoldError) || cause.code.startsWith("CHECKPOINT_")) throw cause;
    throw invalid(cause.message, cause);
  }
}

/** Removes the checkpoint of a finished training. */
export async function removeCheckpoint(out: string): Promise<void> {
  await rm(folderOf(out), { recursive: true, force: true });
}

const progressSchema = z.object({
  steps: z.int().nonnegative(),
  loss: z.number(),
  flops: z.number(),
  seconds: z.number(),
});

async function readFitting(source: SafetensorsFile, fit: CheckpointFit): Promise<Checkpoint> {
  const { file, metadata } = source;
  const settings = z.record(z.string(), z.unknown()).safeParse(json(metadata["settings"]));
  const progress = progressSchema.safeParse(json(metadata["progress"]));
  if (!settings.success || !progress.success) {
    throw invalid(`${file}: metadata "settings" or "progress" is not what a training writes`);
  }
  const differences = differencesOf(settings.data, fit.settings);
  if (differences.length > 0) {
    throw appErrors.error("CHECKPOINT_MISMATCH", `${file} has ${differences.join(", ")}`, {
      hint: "Give the options of the training that was interrupted, or leave --resume out.",
    });
  }
  const group = (name: string) => readGroup(source, name, fit.initial);
  const moments = new Map<string, Parameters>();
  for (const name of momentNames[fit.optimizer]) moments.set(name, await group(name));
  const { steps, ...totals } = progress.data;
  const parameters = await group("parameter");
  return { settings: settings.data, totals, parameters, state: { steps, moments } };
}

async function readGroup(
  source: SafetensorsFile,
  group: string,
  initial: Parameters,
): Promise<Parameters> {
  const tensors = new Map<string, Float32Tensor>();
  for (const [name, { shape }] of initial) {
    const tensor = await source.readFloat32(`${group}/${name}`);
    if (!sameShape(tensor.shape, shape)) {
      const found = `has shape [${tensor.shape.join(", ")}], expected [${shape.join(", ")}]`;
      throw invalid(`${source.file}: tensor ${group}/${name} ${found}`);
    }
    tensors.set(name, tensor);
  }
  return tensors;
}

function json(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? "");
  } catch {
    return undefined;
  }
}

function folderOf(out: string): string {
  return join(out, "checkpoint");
}

function fileOf(out: string): string {
  return join(folderOf(out), "state.safetensors");
}

function invalid(message: string, cause?: unknown): TrifoldError {
  return appErrors.error("CHECKPOINT_INVALID", message, {
    hint: "Leave --resume out to start from the beginning.",
    cause,
  });
}
