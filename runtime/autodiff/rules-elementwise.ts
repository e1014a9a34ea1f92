// VJP rules of the element-wise operators.
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import { sameShape } from "../tensor.ts";
import type { VjpContext, VjpRules } from "./rules.ts";

type Elementwise =
  | "Add"
  | "Sub"
  | "Mul"
  | "Div"
  | "Neg"
  | "Exp"
  | "Log"
  | "Sqrt"
  | "Tanh"
  | "Sigmoid"
  | "Gelu"
  | "Cast";

export const elementwiseRules: VjpRules<Elementwise> = {
  Add: ({ b, node, dy, needs }) =>
    node.inputs.map((x, i) => (needs[i] ? sumTo(b, dy, x) : undefined)),
  Sub: ({ b, node, dy, needs }) => {
    const [x, y] = node.inputs as [Value, Value];
    return [
      needs[0] ? sumTo(b, dy, x) : undefined,
      needs[1] ? sumTo(b, b.op("Neg", [dy], {}), y) : undefined,
    ];
  },
  Mul: ({ b, node, dy, needs }) => {
    const [x, y] = node.inputs as [Value, Value];
    return [
      needs[0] ? sumTo(b, b.op("Mul", [dy, y], {}), x) : undefined,
      needs[1] ? sumTo(b, b.op("Mul", [dy, x], {}), y) : undefined,
    ];
  },
  Div: ({ b, node, dy, needs }) => {
    const [x, y] = node.inputs as [Value, Value];
    const quotient = node.outputs[0] as Value;
    const dx = b.op("Div", [dy, y], {});
    const minusDyTimesQuotient = () => b.op("Neg", [b.op("Mul", [dx, quotient], {})], {});
    return [
      needs[0] ? sumTo(b, dx, x) : undefined,
      needs[1] ? sumTo(b, minusDyTimesQuotient(), y) : undefined,
    ];
  },
  Neg: ({ b, dy }) => [b.op("Neg", [dy], {})],
  Exp: ({ b, node, dy }) => [b.op("Mul", [dy, output(node)], {})],
  Log: ({ b, node, dy }) => [b.op("Div", [dy, node.inputs[0] as Value], {})],
  Sqrt: ({ b, node, dy }) => [
    b.op("Div", [b.op("Mul", [dy, b.scalar(0.5)], {}), output(node)], {}),
  ],
  // 1 - y^2
  Tanh: ({ b, node, dy }) => {
    const y = output(node);
    return [b.op("Mul", [dy, b.op("Sub", [b.scalar(1), b.op("Mul", [y, y], {})], {})], {})];
  },
  // y * (1 - y)
  Sigmoid: ({ b, node, dy }) => {
    const y = output(node);
    return [b.op("Mul", [dy, b.op("Mul", [y, b.op("Sub", [b.scalar(1), y], {})], {})], {})];
  },
  Gelu: geluVjp,
  Cast: ({ node, dy }) => [node.attributes.to === "float32" ? dy : undefined],
};

/**
 * Gradient of the tanh approximation of Gelu.
 *
 * With c = sqrt(2/pi), a = 0.044715, t = 2ca x^2 and v = (t + 2c) x, gelu(x) = x * sigmoid(v), because
 * (1 + tanh(u)) / 2 = sigmoid(2u). So dy/dx = s * (1 + (1 - s) * w) with s = sigmoid(v) and w = x * v' =
 * (3t + 2c) x. Every operator is a pass over the widest values of the model, hence as few as possible.
 */
function geluVjp({ b, node, dy }: VjpContext<"Gelu">): readonly Value[] {
  const x = node.inputs[0] as Value;
  const c = Math.sqrt(2 / Math.PI);
  const mul = (p: Value, q: Value) => b.op("Mul", [p, q], {});
  const add = (p: Value, q: Value) => b.op("Add", [p, q], {});
  const t = mul(mul(x, x), b.scalar(2 * c * 0.044715));
  const v = mul(add(t, b.scalar(2 * c)), x);
  const s = b.op("Sigmoid", [v], {});
  const w = mul(add(mul(t, b.scalar(3)), b.scalar(2 * c)), x);
  const rest = mul(b.op("Sub", [b.scalar(1), s], {}), w);
  return [mul(dy, mul(add(rest, b.scalar(1)), s))];
}

/** Sums a gradient over the axes that broadcasting repeated, back to the shape of `target`. */
export function sumTo(b: GraphBuilder, gradient: Value, target: Value): Value {
  if (sameShape(gradient.shape, target.shape)) return gradient;
  const extra = gradient.shape.length - target.shape.length;
  const axes = gradient.shape.flatMap((size, axis) => {
    const targetSize = axis < extra ? 1 : (target.shape[axis - extra] as number);
    return targetSize === 1 && size !== 1 ? [axis] : [];
  });
  const summed =
    axes.length > 0 ? b.op("ReduceSum", [gradient], { axes, keepDims: true }) : gradient;
  return sameShape(summed.shape, target.shape)
    ? summed
    : b.op("Reshape", [summed], { shape: target.shape });
}

function output(node: { readonly outputs: readonly Value[] }): Value {
  return node.outputs[0] as Value;
}
