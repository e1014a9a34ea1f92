// A task with its model and data opened: what the coordinator computes with and what it announces.
import { createHash } from "node:crypto";
import { deflateRawSync } from "node:zlib";
import { labelsOf, requireAggregationMemory, shapesOf, type Task } from "../../protocols/index.ts";
import {
  type BaseModel,
  type Example,
  randomStream,
  readTable,
  type TextRow,
  type Tokenizer,
} from "../../runtime/index.ts";
import { columnsOf, examplesOf } from "../examples.ts";
import { openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { embeddedModelFolder } from "../package-root.ts";
import type { TaskFile } from "./task-file.ts";
import { checkTaskFits } from "./task-fit.ts";

/** Everything a run needs of its task. */
export interface PreparedTask {
  readonly task: Task;
  readonly modelFolder: string;
  readonly model: BaseModel;
  readonly tokenizer: Tokenizer;
  readonly testSet: readonly Example[];
  readonly publicSet: readonly Example[];
  /** The public texts as devices fetch them; empty without a public set. */
  readonly publicBytes: Uint8Array;
}

/** Opens model and data; throws their errors (`MODEL_*`, `DATA_*`), and `AGGREGATION_MEMORY_EXCEEDED` where not even the minimum of devices has room. */
export async function prepareTask(file: TaskFile, cacheFolder: string): Promise<PreparedTask> {
  const { settings, data } = file;
  const modelFolder = file.modelFolder ?? embeddedModelFolder();
  const { model, tokenizer } = await openModelAndTokenizer(modelFolder, cacheFolder);
  checkTaskFits(file, model.config);
  const { textColumn } = data;
  const heldRows = await readTable(data.test, columnsOf(settings, data));
  const slice = publicSliceOf(heldRows, data.publicFraction ?? 0, settings.seed);
  const testRows = slice.rest;
  const publicRows =
    data.public === undefined ? slice.public : await readTable(data.public, { textColumn });
  const publicBytes = packTexts(publicRows.map(({ text }) => text));
  const publicSet = {
    sha256: sha256(publicBytes),
    size: publicRows.length,
    bytes: publicBytes.length,
  };
  const task: Task = {
    ...settings,
    manifest: {
      modelSha256: model.sha256,
      tokenizerSha256: tokenizer.sha256,
      config: model.config,
      ...(publicRows.length > 0 ? { publicSet } : {}),
    },
  };
  requireAggregationMemory(task.aggregation, task.cohort.minimumDevices, shapesOf(task));
  const labels = labelsOf(task);
  const sequence = settings.training.sequenceLength;
  return {
    task,
    modelFolder,
    model,
    tokenizer,
    testSet: examplesOf(testRows, { tokenizer, labels, sequence }),
    publicSet: examplesOf(publicRows, { tokenizer, labels, sequence }),
    publicBytes,
  };
}

/** Parts a table into public texts, the same ones for the same seed, without their labels, and the rest in its order. */
function publicSliceOf(rows: readonly TextRow[], fraction: number, seed: number) {
  const places = randomStream(seed, "public-slice").shuffle([...rows.keys()]);
  const chosen = new Set(places.slice(0, Math.floor(rows.length * fraction)));
  const part = (isPublic: boolean) => rows.filter((_, place) => chosen.has(place) === isPublic);
  return { public: part(true).map(({ text }) => ({ text, label: undefined })), rest: part(false) };
}

/** Texts as they travel: a JSON list, deflated. */
function packTexts(texts: readonly string[]): Uint8Array {
  return texts.length === 0
    ? new Uint8Array(0)
    : deflateRawSync(JSON.stringify(texts), { level: 9 });
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
