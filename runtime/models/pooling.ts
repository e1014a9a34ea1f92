// The one token a row that a classifier reads, taken out of all tokens by a product with ones and zeros.
import type { Value } from "../graph/ir.ts";
import type { BlockContext } from "./family.ts";

/** The pooled rows [batch, width] of `x` [tokens, width]; all of them without a `pooling` [batch, 1, seq]. */
export function pooledRows(
  { b, batch, sequence }: Pick<BlockContext, "b" | "batch" | "sequence">,
  x: Value,
  pooling: Value | undefined,
): Value {
  if (!pooling) return x;
  const width = x.shape[1] as number;
  const rows = b.op("Reshape", [x], { shape: [batch, sequence, width] });
  return b.op("Reshape", [b.op("MatMul", [pooling, rows], {})], { shape: [batch, width] });
}

/** What the pooled token may look at, [batch, 1, 1, seq] of an attention bias [batch, 1, seq, seq]; all of it without pooling. */
export function pooledBias(
  { b, batch, sequence }: Pick<BlockContext, "b" | "batch" | "sequence">,
  bias: Value,
  pooling: Value | undefined,
): Value {
  if (!pooling) return bias;
  const rows = b.op("Reshape", [pooling], { shape: [batch, 1, 1, sequence] });
  return b.op("MatMul", [rows, bias], {});
}
