// Symmetric int8 with one float32 scale per index of an axis: transformer activations have outlier channels that
// would swallow a scale shared along a row. Bytes: the axis (255 = one scale for all), scales, values. With outliers apart
// (`outliers.ts`) the first byte is 64 + axis (127 = one scale for all), their values are 0 here, and they follow.
import { elementCount } from "../../runtime/index.ts";
import { channelsOf, type Layout, layoutOf } from "./channels.ts";
import { type CodecSettings, lengthProblem, type ScaleAxis, type ValueCodec } from "./encoded.ts";
import {
  noOutliers,
  ordinaryLimits,
  outlierBytes,
  outlierQuota,
  outliersOf,
  packOutliers,
  unpackOutliers,
} from "./outliers.ts";

/**
 * One byte a value and four a channel; absolute error at most half a scale, largest magnitude of the channel / 254. Outliers take
 * two bytes and an index more, err by 2^-8 of themselves, and no longer count for their channel's scale.
 */
export const int8Codec: ValueCodec = {
  byteLength: (shape, settings) => {
    const count = elementCount(shape);
    const { layout, quota } = planOf(shape, settings);
    const apart = quota === 0 ? 0 : outlierBytes(quota * layout.channels, count);
    return plainBytes(shape, settings.axis) + apart;
  },
  encode: (data, shape, settings) => {
    const { axis } = settings;
    const { layout, quota } = planOf(shape, settings);
    const limits = ordinaryLimits(data, layout, quota);
    const scales = limits.map((most) => Math.min(most / 127, largestScale));
    const values = quantise(data, scales, layout);
    const outliers = outliersOf(data, { limits, most: quota * layout.channels }, layout);
    // What nobody reads need not hinder deflate.
    for (const index of outliers.indices) values[index] = 0;
    const apart = quota === 0 ? new Uint8Array(0) : packOutliers(outliers, data.length);
    const valuesAt = 1 + scales.byteLength;
    const bytes = new Uint8Array(valuesAt + values.byteLength + apart.byteLength);
    bytes[0] = firstByte({ axis, hasOutliers: quota > 0 });
    bytes.set(new Uint8Array(scales.buffer), 1);
    bytes.set(new Uint8Array(values.buffer), valuesAt);
    bytes.set(apart, valuesAt + values.byteLength);
    return bytes;
  },
  decode: (bytes, shape) => {
    const head = headOf(bytes, shape);
    if (head === undefined) return `needs an axis of it first, got ${bytes.length} bytes`;
    const count = elementCount(shape);
    const end = plainBytes(shape, head.axis);
    const problem = head.hasOutliers ? undefined : lengthProblem(bytes, end);
    if (problem) return problem;
    const apart = head.hasOutliers ? unpackOutliers(bytes.subarray(end), count) : noOutliers;
    if (!apart) return `has no such outliers in ${bytes.length} bytes`;
    const layout = layoutOf(shape, head.axis);
    const scales = new Float32Array(layout.channels);
    new Uint8Array(scales.buffer).set(bytes.subarray(1, 1 + scales.byteLength));
    const values = new Int8Array(bytes.buffer, bytes.byteOffset + end - count, count);
    const data = restore(values, scales, layout);
    apart.indices.forEach((index, i) => {
      data[index] = apart.values[i] as number;
    });
    return data;
  },
};

/** The axis to scale along when the caller names none: channels of activations, rows of a matrix, all of a vector. */
export function defaultScaleAxis(shape: readonly number[]): ScaleAxis {
  if (shape.length < 2) return "none";
  return shape.length === 2 ? 0 : shape.length - 1;
}

/** What the first byte says. */
interface Head {
  readonly axis: ScaleAxis;
  readonly hasOutliers: boolean;
}

const wholeTensor = { plain: 255, outliers: 127 };
const outlierFlag = 64;

function firstByte({ axis, hasOutliers }: Head): number {
  if (axis === "none") return hasOutliers ? wholeTensor.outliers : wholeTensor.plain;
  return hasOutliers ? outlierFlag + axis : axis;
}

/** What foreign bytes say first; undefined when that is no axis of the shape. */
function headOf(bytes: Uint8Array, shape: readonly number[]): Head | undefined {
  const axes: readonly ScaleAxis[] = ["none", ...shape.keys()];
  const heads = axes.flatMap((axis) => [false, true].map((hasOutliers) => ({ axis, hasOutliers })));
  return heads.find((head) => firstByte(head) === bytes[0]);
}

/** How the values share scales, and how many of each channel may be set apart. */
function planOf(shape: readonly number[], { axis, outliers }: CodecSettings) {
  const layout = layoutOf(shape, axis);
  return { layout, quota: outlierQuota(elementCount(shape), layout, outliers) };
}

function plainBytes(shape: readonly number[], axis: ScaleAxis): number {
  return 1 + 4 * channelsOf(shape, axis) + elementCount(shape);
}

// Largest float32 whose 127-fold is finite in float32; only values near the type's end need it.
const largestScale = 8454659 * 2 ** 98;

// Adding and taking away 1.5 * 2^52 rounds a float64 to a whole number, ties to even, four times as fast as Math.round.
const roundingBias = 1.5 * 2 ** 52;

function quantise(data: Float32Array, scales: Float32Array, layout: Layout): Int8Array {
  const { channels, inner } = layout;
  // A channel of zeros (or of values so small that their scale vanishes) stays zero.
  const factors = Float64Array.from(scales, (scale) => (scale === 0 ? 0 : 1 / scale));
  const values = new Int8Array(data.length);
  let channel = 0;
  let within = 0;
  for (let i = 0; i < data.length; i++) {
    const scaled = (data[i] as number) * (factors[channel] as number);
    const rounded = scaled + roundingBias - roundingBias;
    // A scale that was rounded down can put the largest value beyond 127.
    values[i] = Math.max(-127, Math.min(127, rounded));
    if (++within === inner) {
      within = 0;
      if (++channel === channels) channel = 0;
    }
  }
  return values;
}

function restore(values: Int8Array, scales: Float32Array, layout: Layout): Float32Array {
  const { channels, inner } = layout;
  const data = new Float32Array(values.length);
  let channel = 0;
  let within = 0;
  for (let i = 0; i < values.length; i++) {
    data[i] = (values[i] as number) * (scales[channel] as number);
    if (++within === inner) {
      within = 0;
      if (++channel === channels) channel = 0;
    }
  }
  return data;
}
