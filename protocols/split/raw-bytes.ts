// What a message would take without reuse: every real token in float32.
import { rawTensorBytes } from "../payload.ts";
import type { SplitDown, SplitUp } from "./messages.ts";

/** Bytes of a message in float32; with reuse those of the rows that stayed at home as well. */
export function rawSplitBytes(message: SplitUp | SplitDown): number {
  if (message.kind !== "activations" && message.kind !== "evaluate") return rawTensorBytes(message);
  const { lengths, reuse } = message.fields;
  if (!reuse) return rawTensorBytes(message);
  const tokens = lengths.reduce((sum, length) => sum + Math.max(1, length), 0);
  return Float32Array.BYTES_PER_ELEMENT * tokens * reuse.hidden;
}
