// The values of one row of logits in 32, 16, 8 or 4 bits each. Softmax does not see what is added to a whole row, so int8
// and int4 count steps below the row's largest logit: none of their levels is spent on a sign or on the row's height.
import { bf16Rounder } from "../encoding/bf16.ts";
import { denseEncodingNames } from "../encoding/encoded.ts";
import type { BitReader, BitWriter } from "./bit-stream.ts";

/** How logits may travel: not as `topk`, for the largest are chosen already. */
export const logitEncodings = denseEncodingNames;
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
  int8: steppedCode(8),
  int4: steppedCode(4),
};

/** Steps below the row's largest; beside them travel, bf16 both, the size of a step and the rest. */
function steppedCode(width: number): ValueCode {
  const levels = 2 ** width - 1;
  return {
    bits: (count, hasRest) => width * count + 16 + (hasRest ? 16 : 0),
    write: (writer, values, rest) => {
      const largest = values.reduce((most, value) => Math.max(most, value), values[0] as number);
      const least = values.reduce((most, value) => Math.min(most, value), largest);
      const scale = stepBits((largest - least) / levels);
      writer.write(scale, 16);
      const step = halfOf(scale);
      for (const value of values) {
        const steps = step === 0 ? 0 : Math.round((largest - value) / step);
        writer.write(Math.min(steps, levels), width);
      }
      if (rest !== undefined) writer.write(halfBits(rest - largest), 16);
    },
    read: (reader, into, hasRest) => {
      const step = halfOf(reader.read(16));
      for (let i = 0; i < into.length; i++) into[i] = -reader.read(width) * step;
      return hasRest ? halfOf(reader.read(16)) : Number.NEGATIVE_INFINITY;
    },
  };
}

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

/** The bf16 of a step, rounded up: the last one must reach the least value. */
function stepBits(step: number): number {
  const nearest = halfBits(step);
  return halfOf(nearest) < step ? nearest + 1 : nearest;
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
  return floatBits(toHalf(value)) >>> 16;
}

function halfOf(bits: number): number {
  return floatOf(bits * 2 ** 16);
}

const toHalf = bf16Rounder();
