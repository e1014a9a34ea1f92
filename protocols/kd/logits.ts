// Logits as they travel in `kd`: the k largest of each example and, for the dropped ones, one
// log-sum-exp, so that a distribution over all classes can be rebuilt.
import { z } from "zod";
import { type Float32Tensor, float32 } from "../../runtime/index.ts";
import type { EncodedTensor, EncodingName } from "../encoding/encoded.ts";
import { encodeTensor } from "../encoding/index.ts";
import { protocolErrors } from "../errors.ts";
import { decodeExactly } from "../payload.ts";
import type { Payload } from "../protocol.ts";

/**
 * Fields beside the tensors `values` [examples, kept] and, when classes were dropped, `rest` [examples] and
 * the blob `indices`: the class of each kept value, little-endian uint16 [examples, kept].
 */
export const logitsFields = {
  /** Classes the logits were taken over. */
  classes: z.int().positive().max(65536),
  kept: z.int().positive(),
};

const packedFields = z.object(logitsFields);

/** Packed logits, ready for a message. */
export interface PackedLogits {
  readonly fields: z.output<typeof packedFields>;
  readonly tensors: ReadonlyMap<string, EncodedTensor>;
  readonly blobs?: ReadonlyMap<string, Uint8Array>;
}

/** Size of a set of logits. */
export interface LogitsSize {
  readonly examples: number;
  readonly classes: number;
}

/** Packs logits [examples, classes]; `topK` at or above the number of classes keeps all in class order. */
export function packLogits(
  logits: Float32Array,
  { examples, classes }: LogitsSize,
  { topK, encoding }: { readonly topK: number; readonly encoding: EncodingName },
): PackedLogits {
  const encode = (tensor: Float32Tensor, name: string) => encodeTensor(tensor, encoding, { name });
  if (topK >= classes) {
    const values = encode(float32([examples, classes], logits), "values");
    return {
      fields: { classes, kept: classes },
      tensors: new Map([["values", values]]),
    };
  }
  const indices = new Uint8Array(2 * examples * topK);
  const order = new DataView(indices.buffer);
  const values = float32([examples, topK]);
  const rest = float32([examples]);
  for (let row = 0; row < examples; row++) {
    const own = logits.subarray(row * classes, (row + 1) * classes);
    const ranked = [...own.keys()].sort((a, b) => (own[b] as number) - (own[a] as number) || a - b);
    ranked.slice(0, topK).forEach((index, place) => {
      order.setUint16(2 * (row * topK + place), index, true);
      values.data[row * topK + place] = own[index] as number;
    });
    rest.data[row] = logSumExp(ranked.slice(topK).map((index) => own[index] as number));
  }
  const tensors = new Map([
    ["values", encode(values, "values")],
    ["rest", encode(rest, "rest")],
  ]);
  return { fields: { classes, kept: topK }, tensors, blobs: new Map([["indices", indices]]) };
}

/**
 * Logits [examples, classes] from a foreign message: kept ones as sent, dropped ones sharing what their
 * log-sum-exp says of them. Throws `PROTOCOL_PAYLOAD_INVALID` when indices do not fit.
 */
export function unpackLogits(
  { fields, tensors, blobs }: PackedLogits,
  { examples, classes }: LogitsSize,
): Float32Array {
  const { kept } = fields;
  if (fields.classes !== classes)
    throw invalid(`${fields.classes} classes, the task has ${classes}`);
  if (kept > classes) throw invalid(`${kept} logits kept of ${classes} classes`);
  const shapes = new Map([["values", [examples, kept]]]);
  if (kept < classes) shapes.set("rest", [examples]);
  const decoded = decodeExactly(tensors, shapes);
  const values = (decoded.get("values") as Float32Tensor).data;
  if (kept === classes) return values;
  const indices = blobs?.get("indices");
  if (indices?.byteLength !== 2 * examples * kept)
    throw invalid(`${indices?.byteLength ?? 0} bytes of indices, expected ${2 * examples * kept}`);
  const rest = (decoded.get("rest") as Float32Tensor).data;
  const order = new DataView(indices.buffer, indices.byteOffset, indices.byteLength);
  const logits = new Float32Array(examples * classes);
  const share = Math.log(classes - kept);
  for (let row = 0; row < examples; row++) {
    logits.fill((rest[row] as number) - share, row * classes, (row + 1) * classes);
    const seen = new Set<number>();
    for (let place = row * kept; place < (row + 1) * kept; place++) {
      const index = order.getUint16(2 * place, true);
      if (index >= classes || seen.has(index))
        throw invalid(`class index ${index} of ${classes} classes`);
      seen.add(index);
      logits[row * classes + index] = values[place] as number;
    }
  }
  return logits;
}

/** Bytes of all logits in float32, none dropped; 0 for a message without logits. */
export function rawLogitsBytes({ fields, tensors }: Payload): number {
  const examples = tensors.get("values")?.shape[0] ?? 0;
  return 4 * examples * Number(fields["classes"] ?? 0);
}

/** Probabilities [examples, classes] of logits at a temperature. */
export function softmax(logits: Float32Array, classes: number, temperature: number): Float32Array {
  const result = new Float32Array(logits.length);
  for (let start = 0; start < logits.length; start += classes) {
    const row = [...logits.subarray(start, start + classes)].map((value) => value / temperature);
    const total = logSumExp(row);
    row.forEach((value, i) => {
      result[start + i] = Math.exp(value - total);
    });
  }
  return result;
}

function logSumExp(values: readonly number[]): number {
  const largest = Math.max(...values);
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}

function invalid(what: string): Error {
  return protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `logits: ${what}`);
}
