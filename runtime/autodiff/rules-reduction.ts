// VJP rules of reductions and of what normalises along an axis.
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import { elementCount, sameShape } from "../tensor.ts";
import type { VjpContext, VjpRules } from "./rules.ts";

type Reductions =
  | "ReduceSum"
  | "ReduceMean"
  | "LogSumExp"
  | "Softmax"
  | "LayerNormalization"
  | "RMSNormalization"
  | "DequantizeLinear";

export const reductionRules: VjpRules<Reductions> = {
  ReduceSum: ({ b, node, dy }) => {
    const x = node.inputs[0] as Value;
    return [b.op("Expand", [keepDims(b, dy, x, node.attributes.axes)], { shape: x.shape })];
  },
  ReduceMean: ({ b, node, dy }) => {
    const x = node.inputs[0] as Value;
    const count = elementCount(node.attributes.axes.map((axis) => x.shape[axis] as number));
    const share = b.op("Mul", [dy, b.scalar(1 / count)], {});
    return [b.op("Expand", [keepDims(b, share, x, node.attributes.axes)], { shape: x.shape })];
  },
  // The gradient is softmax(x), which is there: x itself need not be kept.
  LogSumExp: ({ b, node, dy }) => {
    const softmax = node.outputs[1] as Value;
    const column = b.op("Reshape", [dy], { shape: [...dy.shape, 1] });
    return [b.op("Mul", [softmax, column], {})];
  },
  // With y = softmax(x): dx = y * (dy - sum(y * dy)). Uses the output, so x need not be kept.
  Softmax: ({ b, node, dy }) => {
    const y = node.outputs[0] as Value;
    const axes = [y.shape.length - 1];
    const sum = b.op("ReduceSum", [b.op("Mul", [y, dy], {})], { axes, keepDims: true });
    return [b.op("Mul", [y, b.op("Sub", [dy, sum], {})], {})];
  },
  LayerNormalization: layerNormVjp,
  RMSNormalization: rmsNormVjp,
  // Linear in the scales: each collects x * dy over its block of rows. What it waited for does not count.
  DequantizeLinear: ({ b, node, dy, needs }) => {
    const [x, scale] = node.inputs as [Value, Value];
    if (!needs[1]) return [undefined];
    const product = b.op("Mul", [b.op("Cast", [x], { to: "float32" }), dy], {});
    const [blocks = 0, columns = 0] = scale.shape;
    const shape = [blocks, node.attributes.blockSize, columns];
    const rows = b.op("Reshape", [product], { shape });
    return [undefined, b.op("ReduceSum", [rows], { axes: [1], keepDims: false })];
  },
};

/**
 * Gradient of layer normalisation over the last axis (Ba, Kiros, Hinton 2016).
 *
 * With n = (x - mean) * inv and g = dy * scale: dx = inv * (g - mean(g) - n * mean(g * n)),
 * dscale = sum(dy * n), dbias = sum(dy), the sums over every axis but the last.
 */
function layerNormVjp({
  b,
  node,
  dy,
  needs,
}: VjpContext<"LayerNormalization">): (Value | undefined)[] {
  const [x, scale] = node.inputs as [Value, Value];
  const [, mean, inverse] = node.outputs as [Value, Value, Value];
  const last = [x.shape.length - 1];
  const leading = x.shape.slice(0, -1).map((_, axis) => axis);
  const normal = b.op("Mul", [b.op("Sub", [x, mean], {}), inverse], {});
  const dx = () => {
    const g = b.op("Mul", [dy, scale], {});
    const meanG = b.op("ReduceMean", [g], { axes: last, keepDims: true });
    const meanGn = b.op("ReduceMean", [b.op("Mul", [g, normal], {})], {
      axes: last,
      keepDims: true,
    });
    const centred = b.op(
      "Sub",
      [b.op("Sub", [g, meanG], {}), b.op("Mul", [normal, meanGn], {})],
      {},
    );
    return b.op("Mul", [centred, inverse], {});
  };
  const overRows = (value: Value) => b.op("ReduceSum", [value], { axes: leading, keepDims: false });
  return [
    needs[0] ? dx() : undefined,
    needs[1] ? overRows(b.op("Mul", [dy, normal], {})) : undefined,
    needs[2] ? overRows(dy) : undefined,
  ];
}

/**
 * Gradient of RMS normalisation over the last axis (Zhang, Sennrich 2019).
 *
 * With r = sqrt(mean(x^2) + epsilon), n = x / r and g = dy * scale: dx = (g - n * mean(g * n)) / r,
 * dscale = sum(dy * n) over every axis but the last. The operator gives no statistic out, so r is computed again.
 */
function rmsNormVjp({ b, node, dy, needs }: VjpContext<"RMSNormalization">): (Value | undefined)[] {
  const [x, scale] = node.inputs as [Value, Value];
  const last = [x.shape.length - 1];
  const leading = x.shape.slice(0, -1).map((_, axis) => axis);
  const meanOfProduct = (p: Value, q: Value) =>
    b.op("ReduceMean", [b.op("Mul", [p, q], {})], { axes: last, keepDims: true });
  const shifted = b.op("Add", [meanOfProduct(x, x), b.scalar(node.attributes.epsilon)], {});
  const root = b.op("Sqrt", [shifted], {});
  const normal = b.op("Div", [x, root], {});
  const dx = () => {
    const g = b.op("Mul", [dy, scale], {});
    const along = b.op("Mul", [normal, meanOfProduct(g, normal)], {});
    return b.op("Div", [b.op("Sub", [g, along], {}), root], {});
  };
  const dscale = () =>
    b.op("ReduceSum", [b.op("Mul", [dy, normal], {})], { axes: leading, keepDims: false });
  return [needs[0] ? dx() : undefined, needs[1] ? dscale() : undefined];
}

/** `reduced` with the reduced axes of `x` kept as size 1. */
function keepDims(b: GraphBuilder, reduced: Value, x: Value, axes: readonly number[]): Value {
  const shape = x.shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
  return sameShape(reduced.shape, shape) ? reduced : b.op("Reshape", [reduced], { shape });
}
