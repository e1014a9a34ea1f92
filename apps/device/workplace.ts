// What a device has once it knows its task: model, private examples, engine. Opened when the task is
// announced, kept until the task changes.
import { join } from "node:path";
import {
  type AnyProtocol,
  labelsOf,
  type OwnModel,
  type Task,
  taskFingerprint,
  withOwnModel,
} from "../../protocols/index.ts";
import { type BaseModel, type Example, readTable, type Tokenizer } from "../../runtime/index.ts";
import { columnsOf, examplesOf, holdOut } from "../examples.ts";
import type { ModelAndTokenizer } from "../model-and-tokenizer.ts";
import { type DeviceState, openDeviceState } from "./client-state.ts";
import { deviceProgramErrors } from "./errors.ts";
import { createUploadKeeper, type UploadKeeper } from "./kept-upload.ts";
import { findModels, type ModelPlaces } from "./model-store.ts";

/** The private data of a device. */
export interface PrivateData {
  readonly file: string;
  readonly textColumn: string;
  /** False for texts without labels. */
  readonly labelColumn: string | false;
  readonly holdOutFraction: number;
}

/** What a device holds of one model: its own private examples as that model's tokenizer makes them. */
export interface HeldModel {
  /** The task as it is to this model. */
  readonly task: Task;
  readonly model: BaseModel;
  readonly tokenizer: Tokenizer;
  readonly train: readonly Example[];
  readonly holdOut: readonly Example[];
}

/** A device ready to train. */
export interface Workplace {
  readonly task: Task;
  readonly fingerprint: string;
  /** The task's model; a device with one of its own may lack it. */
  readonly base: HeldModel | undefined;
  /** The device's own model, for protocols that leave it the choice. */
  readonly own: (HeldModel & { readonly facts: OwnModel }) | undefined;
  /** Private examples to train on and held out, alike for every model. */
  readonly examples: { readonly train: number; readonly holdOut: number };
  readonly state: DeviceState;
  /** The last round's message until it is delivered. */
  readonly uploads: UploadKeeper;
}

/** Opens models and data; throws `DEVICE_MODEL_MISSING`, `DATA_*` or `DEVICE_DATA_TOO_SMALL`. */
export async function openWorkplace(
  task: Task,
  {
    deviceId,
    places,
    data,
  }: { readonly deviceId: string; readonly places: ModelPlaces; readonly data: PrivateData },
): Promise<Workplace> {
  const labels = labelsOf(task);
  const found = await findModels(task, places);
  const rows = await readTable(data.file, columnsOf(task, data));
  const held = (seen: Task, { model, tokenizer }: ModelAndTokenizer): HeldModel => {
    const sequence = seen.training.sequenceLength;
    const examples = examplesOf(rows, { tokenizer, labels, sequence });
    const parts = holdOut(examples, data.holdOutFraction, [task.seed, deviceId]);
    if (parts.train.length === 0) {
      throw deviceProgramErrors.error(
        "DEVICE_DATA_TOO_SMALL",
        `${data.file}: ${examples.length} rows leave none to train on`,
      );
    }
    return { task: seen, model, tokenizer, ...parts };
  };
  const base = found.base && held(task, found.base);
  const { own: ownFound } = found;
  const own = ownFound && {
    ...held(withOwnModel(task, ownFound.facts), ownFound),
    facts: ownFound.facts,
  };
  const { train, holdOut: aside } = (base ?? own) as HeldModel;
  const fingerprint = taskFingerprint(task);
  const folder = join(places.stateFolder, "tasks", fingerprint.slice(0, 16), deviceId);
  const state = await openDeviceState(folder);
  const uploads = createUploadKeeper(folder, deviceId);
  const examples = { train: train.length, holdOut: aside.length };
  return { task, fingerprint, base, own, examples, state, uploads };
}

/** What a protocol runs on this device; throws `DEVICE_MODEL_MISSING` when that is the task's model and the device lacks it. */
export function heldFor(
  { base, own, task }: Workplace,
  { name, runsOwnModel = false }: Pick<AnyProtocol, "name" | "runsOwnModel">,
): HeldModel {
  const held = runsOwnModel && own ? own : base;
  if (held) return held;
  const wanted = task.manifest.modelSha256.slice(0, 12);
  throw deviceProgramErrors.error("DEVICE_MODEL_MISSING", `"${name}" needs model ${wanted}`, {
    hint: "The device has a model of its own only: leave it to protocols that run one.",
  });
}
