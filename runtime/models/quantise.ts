// Quantised copies of a model's linear layers, made once and kept beside its float32 weights. Symmetric, with one
// float32 scale for each block of rows in a column: w ~ scale * q (the scheme of ONNX DequantizeLinear-21, blocked).
import { type FileHandle, open, readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import { replaceFile, writeFileAtomic } from "../files.ts";
import { elementCount } from "../tensor.ts";
import {
  type BaseModel,
  fileOf,
  type QuantisedFormat,
  type QuantisedLocation,
  type QuantisedWeights,
  type WeightFormat,
  type WeightLocation,
} from "./base-model.ts";
import { linearModules } from "./families.ts";
import { writeFault } from "./weights-file.ts";

/**
 * The model with linear layers rounded to `format`; embeddings, norms and biases stay float32. The first time, the
 * layers are read a few rows at a time and written beside the float32 weights, which both keep. Throws
 * `WEIGHTS_WRITE_FAILED` where that folder cannot be written, `MODEL_UNSUPPORTED` for int4 of layers with odd sizes.
 */
export async function quantiseModel(model: BaseModel, format: QuantisedFormat): Promise<BaseModel> {
  const { file, indexFile } = quantisedFiles(model, format);
  const expected = quantisedLayout(model, format);
  if (!canQuantise(model, format)) throw oddBlocks(format);
  const known = await readIndex(indexFile);
  const size = await sizeOf(file);
  if (known?.sha256 !== model.sha256 || size !== expected.sizeBytes) {
    await writeQuantised(model, format, expected, file);
    const index = { format: 1, sha256: model.sha256 } satisfies z.input<typeof indexSchema>;
    await writeFileAtomic(indexFile, `${JSON.stringify(index)}\n`);
  }
  return { ...model, quantised: { format, file, tensors: expected.tensors } };
}

/** The model as `quantiseModel` would make it, without its bytes: enough to build graphs that are measured, never run. */
export function sketchQuantised(model: BaseModel, format: QuantisedFormat): BaseModel {
  const { file } = quantisedFiles(model, format);
  const quantised: QuantisedWeights = {
    format,
    file,
    tensors: quantisedLayout(model, format).tensors,
  };
  return { ...model, quantised };
}

/** Beside the float32 weights, whose name they bear: models whose tensors have files of their own share a folder. */
function quantisedFiles({ weightsFile }: BaseModel, format: QuantisedFormat) {
  const stem = join(dirname(weightsFile), basename(weightsFile, ".f32"));
  return { file: `${stem}.${format}`, indexFile: `${stem}.${format}.json` };
}

/** Whether the model's layers can be stored so: half a byte must not be left at the end of a block. */
export function canQuantise(model: BaseModel, format: WeightFormat): boolean {
  if (format !== "int4") return true;
  return linearModules(model.config).every(({ path }) => {
    const { shape } = model.weights.get(`${path}.weight`) as WeightLocation;
    const [rows = 0, columns = 0] = shape;
    return (blockSizeOf(rows) * columns) % 2 === 0;
  });
}

/** Rows that share a scale: the largest power of two up to 32 that divides them, so that no block is cut short. */
function blockSizeOf(rows: number): number {
  let size = 32;
  while (rows % size !== 0) size /= 2;
  return size;
}

/** Largest magnitude of a quantised element: symmetric, so that the lowest code is not used. */
const largestCode = { int8: 127, int4: 7 } as const;
const bitsOf = { int8: 8, int4: 4 } as const;
/** As float32 weights are placed: maps start on pages. */
const alignmentBytes = 4096;

const indexSchema = z.object({ format: z.literal(1), sha256: z.string() });

interface Layout {
  readonly tensors: ReadonlyMap<string, QuantisedLocation>;
  readonly sizeBytes: number;
}

/** Follows from the configuration alone: where each layer's elements and scales lie. */
function quantisedLayout(model: BaseModel, format: QuantisedFormat): Layout {
  const tensors = new Map<string, QuantisedLocation>();
  let end = 0;
  const place = (lengthBytes: number): number => {
    const offset = Math.ceil(end / alignmentBytes) * alignmentBytes;
    end = offset + lengthBytes;
    return offset;
  };
  for (const { path } of linearModules(model.config)) {
    const name = `${path}.weight`;
    const { shape } = model.weights.get(name) as WeightLocation;
    const [rows = 0, columns = 0] = shape;
    const blockSize = blockSizeOf(rows);
    const dataLengthBytes = Math.ceil((elementCount(shape) * bitsOf[format]) / 8);
    const scalesLengthBytes = (rows / blockSize) * columns * Float32Array.BYTES_PER_ELEMENT;
    tensors.set(name, {
      shape,
      blockSize,
      dataLengthBytes,
      dataOffsetBytes: place(dataLengthBytes),
      scalesLengthBytes,
      scalesOffsetBytes: place(scalesLengthBytes),
    });
  }
  return { tensors, sizeBytes: end };
}

function oddBlocks(format: QuantisedFormat): Error {
  return runtimeErrors.error(
    "MODEL_UNSUPPORTED",
    `a linear layer has an odd number of rows and of columns, ${format} needs one even`,
    { hint: "Use int8 for this model." },
  );
}

async function writeQuantised(
  model: BaseModel,
  format: QuantisedFormat,
  { tensors }: Layout,
  file: string,
): Promise<void> {
  try {
    await replaceFile(file, async (target) => {
      for (const [name, location] of tensors) {
        const weight = model.weights.get(name) as WeightLocation;
        const source = await open(fileOf(model, weight));
        try {
          await quantiseTensor({ source, target, format }, weight.offsetBytes, location);
        } finally {
          await source.close();
        }
      }
    });
  } catch (cause) {
    throw writeFault(cause, file);
  }
}

function cutOff(offsetBytes: number): Error {
  return runtimeErrors.error(
    "MODEL_FILE_TRUNCATED",
    `the float32 weights end within the rows at byte ${offsetBytes}`,
    { hint: "Import the model again, or empty the cache folder." },
  );
}

interface Copy {
  readonly source: FileHandle;
  readonly target: FileHandle;
  readonly format: QuantisedFormat;
}

/** One block of rows in memory at a time. */
async function quantiseTensor(
  { source, target, format }: Copy,
  offsetBytes: number,
  location: QuantisedLocation,
): Promise<void> {
  const { shape, blockSize } = location;
  const [rows = 0, columns = 0] = shape;
  const values = new Float32Array(blockSize * columns);
  const codesBytes = Math.ceil((values.length * bitsOf[format]) / 8);
  for (let block = 0; block < rows / blockSize; block++) {
    const place = offsetBytes + block * values.byteLength;
    const { bytesRead } = await source.read(bytesOf(values), 0, values.byteLength, place);
    if (bytesRead !== values.byteLength) throw cutOff(place);
    const { codes, scales } = quantiseBlock(values, columns, largestCode[format]);
    const packed = format === "int8" ? codes : packNibbles(codes);
    const dataAt = location.dataOffsetBytes + block * codesBytes;
    await target.write(bytesOf(packed), 0, packed.byteLength, dataAt);
    const scalesAt = location.scalesOffsetBytes + block * scales.byteLength;
    await target.write(bytesOf(scales), 0, scales.byteLength, scalesAt);
  }
}

/** Codes of values [rows, columns] and the scale of each column: the largest magnitude becomes the largest code. */
function quantiseBlock(
  values: Float32Array,
  columns: number,
  largest: number,
): { readonly codes: Int8Array; readonly scales: Float32Array } {
  const scales = new Float32Array(columns);
  for (let i = 0; i < values.length; i++) {
    const column = i % columns;
    scales[column] = Math.max(scales[column] as number, Math.abs(values[i] as number));
  }
  for (let column = 0; column < columns; column++) {
    scales[column] = (scales[column] as number) / largest;
  }
  const codes = new Int8Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const scale = scales[i % columns] as number;
    // A scale of zero: a column of zeros, or of numbers so small that they round to it.
    codes[i] = scale === 0 ? 0 : Math.round((values[i] as number) / scale);
  }
  return { codes, scales };
}

/** Two codes to a byte, the first in the low half (ONNX TensorProto, INT4). */
function packNibbles(codes: Int8Array): Uint8Array {
  return Uint8Array.from({ length: Math.ceil(codes.length / 2) }, (_, i) => {
    const [low = 0, high = 0] = codes.subarray(2 * i, 2 * i + 2);
    return (low & 0xf) | ((high & 0xf) << 4);
  });
}

async function readIndex(file: string): Promise<z.output<typeof indexSchema> | undefined> {
  try {
    return indexSchema.parse(JSON.parse(await readFile(file, "utf8")));
  } catch {
    // Not made yet, or damaged: it is made again.
    return undefined;
  }
}

async function sizeOf(file: string): Promise<number | undefined> {
  return await stat(file).then(
    ({ size }) => size,
    () => undefined,
  );
}

function bytesOf(data: Float32Array | Int8Array | Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
