// The values of one row of logits in 32, 16 or 8 bits each. Softmax does not see what is added to a whole row, so int8
// counts steps below the row's largest logit: none of its 256 levels is spent on a sign or on the row's height.
import { roundToHalf } from "../encoding/bf16.ts";
import type { BitReader, BitWriter } from "./bit-stream.ts";

/** How logits may travel. */
export const logitEncodings = ["float32", "bf16", "int8"] as const;
export type LogitEncoding = (typeof logitEncodings)[number];

/** Writes and reads the values of a row, and what its dropped classes weigh. */
export interface ValueCode {
  /** Bits of a row that keeps `count` logits. */
  bits(count: number, hasRest: boolean): number;
  /** `rest` is undefined where nothing was dropped. */
  write(writer: BitWriter, values: Float32Array, rest: number | undefined): void;
  /** Fills `into`; gives the rest, -Infinity where nothing was dropped. What comes may be no number: the caller checks. */
  read(reader: BitReader, into: Float32Array, hasRest: boolean): number;
}

/** The code of an encoding. */
export function valueCode(encoding: LogitEncoding): ValueCode {
  return codes[encoding];
}

const codes: { readonly [E in LogitEncoding]: ValueCode } = {
  float32: plainCode(32, floatBits, floatOf),
  bf16: plainCode(16, halfBits, halfOf),
  int8: {
    // Beside the values a scale and the rest, bf16 both.
    bits: (count, hasRest) => 8 * count + 16 + (hasRest ? 16 : 0),
    write: (writer, values, rest) => {
      const largest = values.reduce(
        (most, value) => Math.max(most, value),
        Number.NEGATIVE_INFINITY,
      );
      const least = values.reduce((most, value) => Math.min(most, value), largest);
      const scale = scaleFor(largest - least);
      writer.write(scale, 16);
      const step = halfOf(scale);
      for (const value of values) {
        const steps = step === 0 ? 0 : Math.round((largest - value) / step);
        writer.write(Math.min(steps, levels), 8);
      }
      if (rest !== undefined) writer.write(halfBits(rest - largest), 16);
    },
    read: (reader, into, hasRest) => {
      const step = halfOf(reader.read(16));
      for (let i = 0; i < into.length; i++) into[i] = -reader.read(8) * step;
      return hasRest ? halfOf(reader.read(16)) : Number.NEGATIVE_INFINITY;
    },
  },
};

const levels = 255;

function plainCode(
  width: number,
  toBits: (value: number) => number,
  ofBits: (bits: number) => number,
): ValueCode {
  return {
    bits: (count, hasRest) => width * (count + (hasRest ? 1 : 0)),
    write: (writer, values, rest) => {
      for (const value of values) writer.write(toBits(value), width);
      if (rest !== undefined) writer.write(toBits(rest), width);
    },
    read: (reader, into, hasRest) => {
      for (let i = 0; i < into.length; i++) into[i] = ofBits(reader.read(width));
      return hasRest ? ofBits(reader.read(width)) : Number.NEGATIVE_INFINITY;
    },
  };
}

/** The bf16 of the smallest step with which 255 steps reach `range`. */
function scaleFor(range: number): number {
  const nearest = halfBits(range / levels);
  return halfOf(nearest) * levels < range ? nearest + 1 : nearest;
}

const word = new Uint32Array(1);
const number = new Float32Array(word.buffer);

function floatBits(value: number): number {
  number[0] = value;
  return word[0] as number;
}

function floatOf(bits: number): number {
  word[0] = bits;
  return number[0] as number;
}

function halfBits(value: number): number {
  return roundToHalf(floatBits(value));
}

function halfOf(bits: number): number {
  return floatOf(bits * 2 ** 16);
}
