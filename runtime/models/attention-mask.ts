// The additive mask of causal attention, shared by every block of a graph.
import type { Value } from "../graph/ir.ts";
import { float32 } from "../tensor.ts";
import type { BlockContext } from "./family.ts";

/**
 * The additive attention mask [batch, 1, seq, seq] of an int64 `attentionMask` [batch, seq]: 0 where a
 * token may look, about -1e9 where it may not (future or padding).
 */
export function attentionBias(
  { b, batch, sequence }: Pick<BlockContext, "b" | "batch" | "sequence">,
  attentionMask: Value,
): Value {
  const causal = float32([1, 1, sequence, sequence]);
  for (let query = 0; query < sequence; query++) {
    causal.data.fill(-1e9, query * sequence + query + 1, (query + 1) * sequence);
  }
  const mask = b.op("Cast", [attentionMask], { to: "float32" });
  const padding = b.op("Mul", [b.op("Sub", [mask, b.scalar(1)], {}), b.scalar(1e9)], {});
  const keys = b.op("Reshape", [padding], { shape: [batch, 1, 1, sequence] });
  return b.op("Add", [b.constant(causal, "causal"), keys], {});
}
