// VJP rules of operators that move elements, without computing on them or by turning them.
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import { elementCount } from "../tensor.ts";
import type { VjpRules } from "./rules.ts";
import { sumTo } from "./rules-elementwise.ts";

type ShapeOps =
  | "Reshape"
  | "Transpose"
  | "Expand"
  | "Concat"
  | "Split"
  | "Gather"
  | "GatherElements"
  | "ScatterElements"
  | "RotaryEmbedding";

export const shapeVjpRules: VjpRules<ShapeOps> = {
  Reshape: ({ b, node, dy }) => [b.op("Reshape", [dy], { shape: (node.inputs[0] as Value).shape })],
  Transpose: ({ b, node, dy }) => {
    const { perm } = node.attributes;
    return [b.op("Transpose", [dy], { perm: perm.map((_, axis) => perm.indexOf(axis)) })];
  },
  Expand: ({ b, node, dy }) => [sumTo(b, dy, node.inputs[0] as Value)],
  Concat: ({ b, node, dy }) => {
    const { axis } = node.attributes;
    const sizes = node.inputs.map((input) => input.shape[axis] as number);
    return b.apply("Split", [dy], { axis, sizes });
  },
  Split: ({ b, node, outputGradients }) => {
    const parts = node.outputs.map((output, i) => outputGradients[i] ?? zeros(b, output.shape));
    return [b.op("Concat", parts, { axis: node.attributes.axis })];
  },
  // Rows that were read several times collect the sum of their gradients.
  Gather: ({ b, node, dy }) => {
    const [table, indices] = node.inputs as [Value, Value];
    const width = elementCount(table.shape.slice(1));
    const rows = elementCount(indices.shape);
    const column = b.op("Reshape", [indices], { shape: [rows, 1] });
    const everywhere = b.op("Expand", [column], { shape: [rows, width] });
    const flat = b.op("Reshape", [dy], { shape: [rows, width] });
    const empty = zeros(b, [table.shape[0] as number, width]);
    const sum = b.op("ScatterElements", [empty, everywhere, flat], { axis: 0 });
    return [b.op("Reshape", [sum], { shape: table.shape })];
  },
  GatherElements: ({ b, node, dy }) => {
    const [x, indices] = node.inputs as [Value, Value];
    const { axis } = node.attributes;
    return [b.op("ScatterElements", [zeros(b, x.shape), indices, dy], { axis })];
  },
  ScatterElements: ({ b, node, dy, needs }) => {
    const { axis } = node.attributes;
    const indices = node.inputs[1] as Value;
    return [dy, undefined, needs[2] ? b.op("GatherElements", [dy, indices], { axis }) : undefined];
  },
  // The transpose of a rotation turns by the same angle the other way.
  RotaryEmbedding: ({ b, node, dy, needs }) => {
    const [, cos, sin, positions] = node.inputs as [Value, Value, Value, Value];
    const back = () => {
      const inputs = [dy, cos, b.op("Neg", [sin], {}), positions];
      return b.op("RotaryEmbedding", inputs, node.attributes);
    };
    return [needs[0] ? back() : undefined];
  },
};

function zeros(b: GraphBuilder, shape: readonly number[]): Value {
  return b.op("Expand", [b.scalar(0)], { shape });
}
