// Symmetric int8 with one float32 scale per index of an axis: transformer activations have outlier channels that
// would swallow a scale shared along a row. Bytes: the axis (255 = one scale for all), scales, values.
import { elementCount } from "../../runtime/index.ts";
import { lengthProblem, type ScaleAxis, type ValueCodec } from "./encoded.ts";

/** One byte a value and four a channel; absolute error at most half a scale, largest magnitude of the channel / 254. */
export const int8Codec: ValueCodec = {
  byteLength: (shape, { axis }) => bytesOf(shape, axis),
  encode: (data, shape, { axis }) => {
    const layout = layoutOf(shape, axis);
    const scales = scalesOf(data, layout);
    const values = quantise(data, scales, layout);
    const bytes = new Uint8Array(1 + scales.byteLength + values.byteLength);
    bytes[0] = axis === "none" ? wholeTensor : axis;
    bytes.set(new Uint8Array(scales.buffer), 1);
    bytes.set(new Uint8Array(values.buffer), 1 + scales.byteLength);
    return bytes;
  },
  decode: (bytes, shape) => {
    const axis = axisOf(bytes, shape);
    if (axis === undefined) return `needs an axis of it first, got ${bytes.length} bytes`;
    const problem = lengthProblem(bytes, bytesOf(shape, axis));
    if (problem) return problem;
    const layout = layoutOf(shape, axis);
    const scales = new Float32Array(layout.channels);
    const valuesAt = 1 + scales.byteLength;
    new Uint8Array(scales.buffer).set(bytes.subarray(1, valuesAt));
    const values = new Int8Array(bytes.buffer, bytes.byteOffset + valuesAt, elementCount(shape));
    return restore(values, scales, layout);
  },
};

/** The axis to scale along when the caller names none: channels of activations, rows of a matrix, all of a vector. */
export function defaultScaleAxis(shape: readonly number[]): ScaleAxis {
  if (shape.length < 2) return "none";
  return shape.length === 2 ? 0 : shape.length - 1;
}

const wholeTensor = 255;

/** The axis that foreign bytes name; undefined when it is none of the shape. */
function axisOf(bytes: Uint8Array, shape: readonly number[]): ScaleAxis | undefined {
  const first = bytes[0];
  if (first === wholeTensor) return "none";
  return first !== undefined && first < shape.length ? first : undefined;
}

function bytesOf(shape: readonly number[], axis: ScaleAxis): number {
  return 1 + 4 * channelsOf(shape, axis) + elementCount(shape);
}

// Largest float32 whose 127-fold is finite in float32; only values near the type's end need it.
const largestScale = 8454659 * 2 ** 98;

// Adding and taking away 1.5 * 2^52 rounds a float64 to a whole number, ties to even, four times as fast as Math.round.
const roundingBias = 1.5 * 2 ** 52;

/** Channels change every `inner` values and repeat after `channels` changes. */
interface Layout {
  readonly channels: number;
  readonly inner: number;
}

function layoutOf(shape: readonly number[], axis: ScaleAxis): Layout {
  if (axis === "none") return { channels: 1, inner: elementCount(shape) };
  return { channels: channelsOf(shape, axis), inner: elementCount(shape.slice(axis + 1)) };
}

function channelsOf(shape: readonly number[], axis: ScaleAxis): number {
  return axis === "none" ? 1 : (shape[axis] ?? 1);
}

function scalesOf(data: Float32Array, { channels, inner }: Layout): Float32Array {
  const largest = new Float32Array(channels);
  let channel = 0;
  let within = 0;
  for (let i = 0; i < data.length; i++) {
    const magnitude = Math.abs(data[i] as number);
    if (magnitude > (largest[channel] as number)) largest[channel] = magnitude;
    if (++within === inner) {
      within = 0;
      if (++channel === channels) channel = 0;
    }
  }
  return largest.map((most) => Math.min(most / 127, largestScale));
}

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
