// What a device has once it knows its task: model, private examples, engine. Opened when the task is
// announced, kept until the task changes.
import { join } from "node:path";
import { labelsOf, type Task, taskFingerprint } from "../../protocols/index.ts";
import { type BaseModel, type Example, readTable, type Tokenizer } from "../../runtime/index.ts";
import { columnsOf, examplesOf, holdOut } from "../examples.ts";
import { type DeviceState, openDeviceState } from "./client-state.ts";
import { deviceProgramErrors } from "./errors.ts";
import { findModel, type ModelPlaces } from "./model-store.ts";

/** The private data of a device. */
export interface PrivateData {
  readonly file: string;
  readonly textColumn: string;
  /** False for texts without labels. */
  readonly labelColumn: string | false;
  readonly holdOutFraction: number;
}

/** A device ready to train. */
export interface Workplace {
  readonly task: Task;
  readonly fingerprint: string;
  readonly model: BaseModel;
  readonly tokenizer: Tokenizer;
  readonly train: readonly Example[];
  readonly holdOut: readonly Example[];
  readonly state: DeviceState;
}

/** Opens model and data; throws `DEVICE_MODEL_MISSING`, `DATA_*` or `DEVICE_DATA_TOO_SMALL`. */
export async function openWorkplace(
  task: Task,
  {
    deviceId,
    places,
    data,
  }: { readonly deviceId: string; readonly places: ModelPlaces; readonly data: PrivateData },
): Promise<Workplace> {
  const labels = labelsOf(task);
  const { model, tokenizer } = await findModel(task, places);
  const rows = await readTable(data.file, columnsOf(task, data));
  const examples = examplesOf(rows, { tokenizer, labels, sequence: task.training.sequenceLength });
  const parts = holdOut(examples, data.holdOutFraction, [task.seed, deviceId]);
  if (parts.train.length === 0) {
    throw deviceProgramErrors.error(
      "DEVICE_DATA_TOO_SMALL",
      `${data.file}: ${examples.length} rows leave none to train on`,
    );
  }
  const fingerprint = taskFingerprint(task);
  const state = await openDeviceState(
    join(places.stateFolder, "tasks", fingerprint.slice(0, 16), deviceId),
  );
  return { task, fingerprint, model, tokenizer, ...parts, state };
}
