// VJP rules of the matrix products. With the right transposition flags no weight is ever transposed
// in memory: Gemm reads it both ways.
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import type { VjpContext, VjpRules } from "./rules.ts";
import { sumTo } from "./rules-elementwise.ts";

export const matrixRules: VjpRules<"MatMul" | "Gemm"> = {
  MatMul: ({ b, node, dy, needs }) => {
    const [x, y] = node.inputs as [Value, Value];
    return [
      needs[0] ? b.op("MatMul", [dy, transposeLast(b, y)], {}) : undefined, // [..., m, k]
      needs[1] ? b.op("MatMul", [transposeLast(b, x), dy], {}) : undefined, // [..., k, n]
    ];
  },
  Gemm: (context) => [
    context.needs[0] ? gemmLeft(context) : undefined,
    context.needs[1] ? gemmRight(context) : undefined,
    context.needs[2] ? sumTo(context.b, context.dy, context.node.inputs[2] as Value) : undefined,
  ],
};

/** dA of alpha * op(A) op(B): dY op(B)^T, or its transpose when A was read transposed. */
function gemmLeft({ b, node, dy }: VjpContext<"Gemm">): Value {
  const { alpha, transA, transB } = node.attributes;
  const right = dequantisedAgain(b, node.inputs[1] as Value, dy);
  return transA
    ? b.op("Gemm", [right, dy], { alpha, transA: transB, transB: true })
    : b.op("Gemm", [dy, right], { alpha, transA: false, transB: !transB });
}

/** dB of alpha * op(A) op(B): op(A)^T dY, or its transpose when B was read transposed. */
function gemmRight({ b, node, dy }: VjpContext<"Gemm">): Value {
  const { alpha, transA, transB } = node.attributes;
  const left = node.inputs[0] as Value;
  return transB
    ? b.op("Gemm", [dy, left], { alpha, transA: true, transB: transA })
    : b.op("Gemm", [left, dy], { alpha, transA: !transA, transB: false });
}

/**
 * A weight that was dequantised for the forward pass, from the same bytes once more when `dy` is there; any other
 * value as it is. Keeping it until now would cost what quantising saved.
 */
function dequantisedAgain(b: GraphBuilder, value: Value, dy: Value): Value {
  const maker = b.nodes.find((node) => node.outputs[0]?.name === value.name);
  if (maker?.op !== "DequantizeLinear") return value;
  const [x, scale] = maker.inputs as readonly [Value, Value, Value];
  return b.op("DequantizeLinear", [x, scale, dy], maker.attributes);
}

function transposeLast(b: GraphBuilder, x: Value): Value {
  const rank = x.shape.length;
  const perm = x.shape.map((_, axis) =>
    axis < rank - 2 ? axis : axis === rank - 2 ? rank - 1 : rank - 2,
  );
  return b.op("Transpose", [x], { perm });
}
