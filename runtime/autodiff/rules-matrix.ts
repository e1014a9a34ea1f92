// VJP rules of the matrix products. With the right transposition flags no weight is ever transposed
// in memory: Gemm reads it both ways.
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import { sameShape } from "../tensor.ts";
import type { VjpContext, VjpRules } from "./rules.ts";
import { sumTo } from "./rules-elementwise.ts";

export const matrixRules: VjpRules<"MatMul" | "Gemm"> = {
  MatMul: ({ b, node, dy, needs }) => {
    const [x, y] = node.inputs as [Value, Value];
    return [
      needs[0] ? b.op("MatMul", [dy, transposeLast(b, y)], {}) : undefined, // [..., m, k]
      needs[1] ? rightOfProduct(b, x, y, dy) : undefined, // [..., k, n]
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
  const right = node.inputs[1] as Value;
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
 * dB of A B: A^T dY. Where B = C^T, the same as (dY^T A)^T: the rule of the transposition undoes the outer one,
 * so that C gets dY^T A without a copy.
 */
function rightOfProduct(b: GraphBuilder, x: Value, y: Value, dy: Value): Value {
  if (!untransposed(b, y)) return b.op("MatMul", [transposeLast(b, x), dy], {});
  return swapLast(b, b.op("MatMul", [swapLast(b, dy), x], {}));
}

/** The transpose over the last two axes; of a value that is one already, its source. */
function transposeLast(b: GraphBuilder, x: Value): Value {
  return untransposed(b, x) ?? swapLast(b, x);
}

/** What `x` is the transpose of over its last two axes, if of anything. */
function untransposed(b: GraphBuilder, x: Value): Value | undefined {
  const maker = b.nodes.find((node) => node.outputs.some((output) => output.name === x.name));
  if (maker?.op !== "Transpose") return undefined;
  const swapped = swapOf(x.shape.length);
  return sameShape(maker.attributes.perm, swapped) ? maker.inputs[0] : undefined;
}

function swapLast(b: GraphBuilder, x: Value): Value {
  return b.op("Transpose", [x], { perm: swapOf(x.shape.length) });
}

function swapOf(rank: number): readonly number[] {
  const axes = Array.from({ length: rank }, (_, axis) => axis);
  return [...axes.slice(0, -2), rank - 1, rank - 2];
}
