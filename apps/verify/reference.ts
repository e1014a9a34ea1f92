// The reference file of `trifold verify`: a batch, an adapter and what another program computed from
// them, in safetensors. Foreign: everything is checked against the model before anything is computed.
import {
  type Float32Tensor,
  type HeadSettings,
  type Int64Tensor,
  type LoraSettings,
  type ModelConfig,
  type Parameters,
  parameterShapes,
  readSafetensors,
  type SafetensorsFile,
  sameShape,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";

/** What a reference file asks for, in the runtime's names. */
export interface Reference {
  readonly lora: LoraSettings;
  readonly head: HeadSettings;
  /** [batch, seq]. */
  readonly inputIds: Int64Tensor;
  /** [batch, seq], 1 where a token is real. */
  readonly attentionMask: Int64Tensor;
  /** [batch] for classification, [batch, seq] for lm; -100 is ignored. */
  readonly labels: Int64Tensor;
  readonly parameters: Parameters;
  /** Name in the file by the runtime's name. */
  readonly fileNames: ReadonlyMap<string, string>;
  /** Expected tensors by their name behind `expected.`: `loss`, `logits`, `grad.<tensor name>`. */
  readonly expected: ReadonlyMap<string, Float32Tensor>;
}

/** Reads and checks a reference file for a model; throws `REFERENCE_INVALID` with file, tensor, expected and actual. */
export async function readReference(file: string, config: ModelConfig): Promise<Reference> {
  const source = await readSafetensors(file);
  const inputIds = await readWhole(source, "input_ids");
  const attentionMask = await readWhole(source, "attention_mask");
  const labels = await readWhole(source, "labels");
  const { lora, isClassification } = readSettings(source, config);
  const fileNames = trainableNames(source);
  const head = await headOf(source, isClassification, fileNames);
  checkBatch(source, config, { inputIds, attentionMask, labels, head });
  const shapes = parameterShapes(config, lora, head);
  refuseUnknown(source, shapes, fileNames);
  const parameters = new Map<string, Float32Tensor>();
  for (const [name, shape] of shapes) {
    const stored = fileNames.get(name) ?? name;
    parameters.set(name, await readShaped(source, stored, shape));
  }
  const expected = await readExpected(source, { shapes, fileNames, inputIds, head, config });
  return { lora, head, inputIds, attentionMask, labels, parameters, fileNames, expected };
}

const ignoredLabel = -100n;

function readSettings(
  { file, metadata }: SafetensorsFile,
  config: ModelConfig,
): { readonly lora: LoraSettings; readonly isClassification: boolean } {
  const field = (name: string): string => {
    const value = metadata[name]?.trim();
    if (value) return value;
    throw invalid(`${file}: metadata lacks "${name}"`);
  };
  const number = (name: string, isValid: (value: number) => boolean, wanted: string): number => {
    const value = Number(field(name));
    if (isValid(value)) return value;
    throw invalid(`${file}: metadata ${name} is "${metadata[name]}", expected ${wanted}`);
  };
  const choice = (name: string, choices: readonly string[]): string => {
    const value = field(name);
    if (choices.includes(value)) return value;
    throw invalid(`${file}: metadata ${name} is "${value}", expected ${choices.join(" or ")}`);
  };
  choice("family", [config.family]);
  const isRank = (value: number) => Number.isSafeInteger(value) && value > 0;
  const isAlpha = (value: number) => Number.isFinite(value);
  return {
    isClassification: choice("head", ["classification", "lm"]) === "classification",
    lora: {
      rank: number("rank", isRank, "a whole number above 0"),
      alpha: number("alpha", isAlpha, "a number"),
      targets: targetsOf(field("targets")),
    },
  };
}

function targetsOf(text: string): readonly string[] {
  return text
    .replace(/[[\]"']/g, "")
    .split(",")
    .map((target) => target.trim())
    .filter((target) => target !== "");
}

const headName = "score.weight";
const peftPrefix = "base_model.model.";

/** The adapter's and the head's tensors: name in the file by the runtime's name. */
function trainableNames(source: SafetensorsFile): Map<string, string> {
  const names = new Map<string, string>();
  for (const stored of source.tensors.keys()) {
    if (/^(input_ids|attention_mask|labels|(expected|actual)\..+)$/.test(stored)) continue;
    const name = stored === headName ? `${peftPrefix}${headName}` : stored;
    if (names.has(name)) throw invalid(`${source.file}: tensor ${name} is there twice`);
    names.set(name, stored);
  }
  return names;
}

async function headOf(
  source: SafetensorsFile,
  isClassification: boolean,
  fileNames: ReadonlyMap<string, string>,
): Promise<HeadSettings> {
  if (!isClassification) return { kind: "lm" };
  const stored = fileNames.get(`${peftPrefix}${headName}`) ?? headName;
  const classes = source.tensors.get(stored)?.shape[0];
  if (classes === undefined || classes < 1) {
    throw invalid(`${source.file}: tensor ${headName} [classes, hidden] is missing`);
  }
  return { kind: "classification", classes };
}

function refuseUnknown(
  { file }: SafetensorsFile,
  shapes: ReadonlyMap<string, unknown>,
  fileNames: ReadonlyMap<string, string>,
): void {
  for (const [name, stored] of fileNames) {
    if (shapes.has(name)) continue;
    throw invalid(
      `${file}: tensor ${stored} belongs to no layer that metadata "targets" and "head" name`,
      `Tensors that they name: ${[...shapes.keys()].join(", ")}.`,
    );
  }
}

interface BatchTensors {
  readonly inputIds: Int64Tensor;
  readonly attentionMask: Int64Tensor;
  readonly labels: Int64Tensor;
  readonly head: HeadSettings;
}

function checkBatch({ file }: SafetensorsFile, config: ModelConfig, batch: BatchTensors): void {
  const { inputIds, attentionMask, labels, head } = batch;
  const [rows, sequence] = inputIds.shape;
  const isMatrix = inputIds.shape.length === 2 && Number(rows) > 0 && Number(sequence) > 0;
  if (!isMatrix) throw misshapen(file, "input_ids", inputIds.shape, "[batch, seq]");
  if (Number(sequence) > config.positions) {
    throw invalid(
      `${file}: input_ids has sequences of ${sequence} tokens, the model takes ${config.positions}`,
    );
  }
  checkShape(file, "attention_mask", attentionMask.shape, inputIds.shape);
  const isClassification = head.kind === "classification";
  const labelShape = isClassification ? [rows as number] : inputIds.shape;
  checkShape(file, "labels", labels.shape, labelShape);
  const classes = isClassification ? head.classes : config.vocabSize;
  checkRange(file, "input_ids", inputIds, config.vocabSize);
  checkRange(file, "attention_mask", attentionMask, 2);
  checkRange(file, "labels", labels, classes, ignoredLabel);
  if (isClassification) refuseEmptyRows(file, attentionMask, sequence as number);
  // The first token of a sequence has none before it to be predicted from.
  const counted = labels.data.filter(
    (label, i) => label !== ignoredLabel && (isClassification || i % (sequence as number) !== 0),
  );
  if (counted.length === 0) throw invalid(`${file}: labels ignores every position, no loss exists`);
}

function checkRange(
  file: string,
  name: string,
  { data }: Int64Tensor,
  limit: number,
  allowed?: bigint,
): void {
  const at = data.findIndex((value) => value !== allowed && (value < 0n || value >= BigInt(limit)));
  if (at < 0) return;
  throw invalid(`${file}: ${name} holds ${data[at]} at element ${at}, expected 0 to ${limit - 1}`);
}

function refuseEmptyRows(file: string, { data }: Int64Tensor, sequence: number): void {
  for (let start = 0; start < data.length; start += sequence) {
    if (data.subarray(start, start + sequence).includes(1n)) continue;
    throw invalid(`${file}: attention_mask hides every token of row ${start / sequence}`);
  }
}

async function readExpected(
  source: SafetensorsFile,
  {
    shapes,
    fileNames,
    inputIds,
    head,
    config,
  }: {
    readonly shapes: ReadonlyMap<string, readonly number[]>;
    readonly fileNames: ReadonlyMap<string, string>;
    readonly inputIds: Int64Tensor;
    readonly head: HeadSettings;
    readonly config: ModelConfig;
  },
): Promise<Map<string, Float32Tensor>> {
  const rows = inputIds.shape[0] as number;
  const logits = head.kind === "lm" ? [...inputIds.shape, config.vocabSize] : [rows, head.classes];
  const known = new Map<string, readonly number[]>([
    ["logits", logits],
    ...[...shapes].map(([name, shape]) => [`grad.${fileNames.get(name) ?? name}`, shape] as const),
  ]);
  const expected = new Map<string, Float32Tensor>();
  for (const stored of source.tensors.keys()) {
    if (!stored.startsWith("expected.")) continue;
    const name = stored.slice("expected.".length);
    const shape = known.get(name);
    if (name === "loss") expected.set(name, await readScalar(source, stored));
    else if (shape) expected.set(name, await readShaped(source, stored, shape));
    else throw invalid(`${source.file}: ${stored} is nothing that verify computes`);
  }
  return expected;
}

async function readScalar(source: SafetensorsFile, name: string): Promise<Float32Tensor> {
  const tensor = await source.readFloat32(name);
  if (tensor.data.length === 1) return tensor;
  throw misshapen(source.file, name, tensor.shape, "one element");
}

async function readShaped(
  source: SafetensorsFile,
  name: string,
  shape: readonly number[],
): Promise<Float32Tensor> {
  requireTensor(source, name);
  checkShape(source.file, name, source.tensors.get(name)?.shape ?? [], shape);
  return await source.readFloat32(name);
}

async function readWhole(source: SafetensorsFile, name: string): Promise<Int64Tensor> {
  requireTensor(source, name);
  const tensor = await source.readTensor(name);
  if (tensor.dtype === "int64") return tensor;
  throw invalid(`${source.file}: tensor ${name} is of type ${tensor.dtype}, expected int64`);
}

function requireTensor({ file, tensors }: SafetensorsFile, name: string): void {
  if (!tensors.has(name)) throw invalid(`${file}: tensor ${name} is missing`);
}

function checkShape(
  file: string,
  name: string,
  actual: readonly number[],
  expected: readonly number[],
): void {
  if (sameShape(actual, expected)) return;
  throw misshapen(file, name, actual, `[${expected.join(", ")}]`);
}

function misshapen(file: string, name: string, actual: readonly number[], wanted: string): Error {
  return invalid(`${file}: tensor ${name} has shape [${actual.join(", ")}], expected ${wanted}`);
}

function invalid(
  message: string,
  hint = "docs/verify.md says what a reference file holds.",
): Error {
  return appErrors.error("REFERENCE_INVALID", message, { hint });
}
