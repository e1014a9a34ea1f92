// The border of the encodings: sizes, axes and finiteness are checked here, in both directions, and
// nothing is allocated before the bytes are known to fit. What frames and deflates them is `broker/codec`.
import { elementCount, type Float32Tensor, float32, type Parameters } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import { bf16Codec } from "./bf16.ts";
import type {
  CodecSettings,
  EncodedTensor,
  EncodingName,
  ScaleAxis,
  ValueCodec,
} from "./encoded.ts";
import { float32Codec } from "./float32.ts";
import { int4Codec } from "./int4.ts";
import { defaultScaleAxis, int8Codec } from "./int8.ts";
import { topkCodec } from "./topk.ts";

export type { EncodedTensor, EncodingName, ScaleAxis } from "./encoded.ts";
export { encodingNames } from "./encoded.ts";

/** How to encode beside the encoding's name. Decoding needs none of it. */
export interface EncodeOptions {
  /** Values with the same index on this axis share an int8 scale; by default the last axis of rank 3 and above, rows of a matrix, one scale below. */
  readonly axis?: ScaleAxis;
  /** Share of each channel's values, the largest, that int8 sends apart in bfloat16, so that they do not coarsen its scale; 0 to 0.25, none by default. */
  readonly outliers?: number;
  /** Share of the values that topk keeps, above 0 to 1, one value at least; a tenth by default. */
  readonly keepFraction?: number;
  /** Name of the tensor, for errors. */
  readonly name?: string;
}

/** Narrows a tensor; throws `PROTOCOL_TENSOR_INVALID` when a value is not finite or the data do not fill the shape. */
export function encodeTensor(
  tensor: Float32Tensor,
  encoding: EncodingName,
  options: EncodeOptions = {},
): EncodedTensor {
  const { shape, data } = tensor;
  const { name } = options;
  checkShape(shape, name);
  const settings = settingsOf(shape, options);
  if (data.length !== elementCount(shape)) {
    throw invalid(name, `${data.length} values do not fill shape [${shape.join(", ")}]`);
  }
  checkFinite(data, name);
  return { shape, encoding, bytes: codecs[encoding].encode(data, shape, settings) };
}

/** Restores a foreign tensor into memory of its own; throws `PROTOCOL_TENSOR_INVALID` when bytes do not fit the shape or a value is not finite. */
export function decodeTensor(encoded: EncodedTensor, name?: string): Float32Tensor {
  const { shape, encoding, bytes } = encoded;
  const codec = Object.hasOwn(codecs, encoding) ? codecs[encoding] : undefined;
  if (!codec) {
    const known = Object.keys(codecs).join(", ");
    throw invalid(name, `unknown encoding "${encoding}"; this end has ${known}`);
  }
  checkShape(shape, name);
  const data = codec.decode(bytes, shape);
  if (typeof data === "string") {
    throw invalid(name, `${encoding} of shape [${shape.join(", ")}] ${data}`);
  }
  checkFinite(data, name);
  return float32(shape, data);
}

/** Bytes that `encodeTensor` makes of a tensor of this shape; with topk and with outliers at most, for the gaps between indices decide. */
export function encodedByteLength(
  shape: readonly number[],
  encoding: EncodingName,
  options: EncodeOptions = {},
): number {
  return codecs[encoding].byteLength(shape, settingsOf(shape, options));
}

/** Encodes every tensor of a bundle, each along its own default axis unless one is given. */
export function encodeAll(
  tensors: Parameters,
  encoding: EncodingName,
  options: Omit<EncodeOptions, "name"> = {},
): Map<string, EncodedTensor> {
  const encode = ([name, tensor]: [string, Float32Tensor]): [string, EncodedTensor] => [
    name,
    encodeTensor(tensor, encoding, { ...options, name }),
  ];
  return new Map([...tensors].map(encode));
}

/** Decodes every tensor of a bundle; errors name the tensor. */
export function decodeAll(tensors: ReadonlyMap<string, EncodedTensor>): Map<string, Float32Tensor> {
  return new Map([...tensors].map(([name, encoded]) => [name, decodeTensor(encoded, name)]));
}

const codecs: { readonly [E in EncodingName]: ValueCodec } = {
  float32: float32Codec,
  bf16: bf16Codec,
  int8: int8Codec,
  int4: int4Codec,
  topk: topkCodec,
};

/** The settings that options leave open, and `PROTOCOL_TENSOR_INVALID` for those that fit no tensor of the shape. */
function settingsOf(shape: readonly number[], options: EncodeOptions): CodecSettings {
  const { name, axis = defaultScaleAxis(shape), keepFraction = 0.1, outliers = 0 } = options;
  checkAxis(shape, axis, name);
  if (!(keepFraction > 0 && keepFraction <= 1)) {
    throw invalid(name, `a share of ${keepFraction} cannot be kept; above 0 to 1 can`);
  }
  if (!(outliers >= 0 && outliers <= 0.25)) {
    throw invalid(name, `a share of ${outliers} cannot be outliers; 0 to 0.25 can`);
  }
  return { axis, keepFraction, outliers };
}

// No tensor of a model has more axes; a foreign shape of a million entries is refused before it is looked at.
const maximumRank = 8;

// 256 MiB of float32, four times the largest message: few bytes of topk may stand for many values.
const maximumElements = 2 ** 26;

function checkShape(shape: readonly number[], name: string | undefined): void {
  const whole = (size: number) => Number.isSafeInteger(size) && size >= 0;
  const fits = shape.length <= maximumRank && shape.every(whole);
  if (!fits || elementCount(shape) > maximumElements) {
    const start = shape.slice(0, maximumRank).join(", ");
    const limits = `${maximumRank} whole sizes and ${maximumElements} values`;
    throw invalid(name, `[${start}] is no shape of at most ${limits}`);
  }
}

function checkAxis(shape: readonly number[], axis: ScaleAxis, name: string | undefined): void {
  if (axis === "none" || (Number.isInteger(axis) && axis >= 0 && axis < shape.length)) return;
  throw invalid(name, `shape [${shape.join(", ")}] has no axis ${axis}`);
}

function checkFinite(data: Float32Array, name: string | undefined): void {
  // 0 * x is 0 for finite x and NaN otherwise: one branch for the whole tensor.
  let probe = 0;
  for (let i = 0; i < data.length; i++) probe += 0 * (data[i] as number);
  if (probe === 0) return;
  const at = data.findIndex((value) => !Number.isFinite(value));
  throw invalid(name, `value ${at} of ${data.length} is not finite`);
}

function invalid(name: string | undefined, problem: string): Error {
  return protocolErrors.error(
    "PROTOCOL_TENSOR_INVALID",
    `${name === undefined ? "tensor" : `tensor ${name}`}: ${problem}`,
  );
}
