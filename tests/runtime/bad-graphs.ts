// Graphs that mean nothing, each wrong in one place; their declared shapes are what a careless rule would infer.
import type { Graph, Node, Value, ValueType } from "../../runtime/graph/ir.ts";
import type { OpAttributes, OpName } from "../../runtime/graph/ops.ts";
import { float32, int64 } from "../../runtime/tensor.ts";

/** A graph that no engine may load, and what the refusal has to name. */
export interface BadGraph {
  readonly title: string;
  readonly graph: Graph;
  readonly message: RegExp;
}

const matrix = [2, 3];
const float = (...shape: readonly number[]) => ({ dtype: "float32", shape }) as const;
const whole = (...shape: readonly number[]) => ({ dtype: "int64", shape }) as const;
const bool = (...shape: readonly number[]) => ({ dtype: "bool", shape }) as const;

/** Every kind of misfit between an operator, its inputs and its attributes. */
export const badGraphs: readonly BadGraph[] = [
  misfit("Add", "a third operand", [float(2), float(2), float(2)], {}, float(2)),
  misfit("Mul", "truth values", [bool(2), bool(2)], {}, bool(2)),
  misfit("Exp", "a second operand", [float(2), float(2)], {}, float(2)),
  misfit("Exp", "whole numbers", [whole(2)], {}, whole(2)),
  misfit("MatMul", "whole numbers", [whole(2, 2), whole(2, 2)], {}, float(2, 2)),
  misfit(
    "Gemm",
    "a bias of whole numbers",
    [float(2, 2), float(2, 2), whole(2)],
    { alpha: 1, transA: false, transB: false },
    float(2, 2),
  ),
  misfit("Softmax", "no axis", [float()], {}, float()),
  misfit(
    "LayerNormalization",
    "a scale of whole numbers",
    [float(2, 3), whole(3)],
    { epsilon: 1 },
    float(2, 3),
  ),
  misfit("LayerNormalization", "no scale", [float(2, 3)], { epsilon: 1 }, float(2, 3)),
  misfit("Reshape", "negative sizes", [float(2, 3)], { shape: [-2, -3] }, float(-2, -3)),
  misfit("Transpose", "an axis twice", [float(2, 3)], { perm: [0, 0] }, float(2, 2)),
  misfit("Concat", "other sizes", [float(2, 3), float(4, 3)], { axis: 1 }, float(2, 6)),
  misfit("Concat", "other types", [float(2), whole(2)], { axis: 0 }, float(4)),
  misfit("Concat", "an axis too many", [float(2, 3), float(2, 3)], { axis: 2 }, float(2, 3)),
  misfit("Split", "a negative size", [float(2)], { axis: 0, sizes: [3, -1] }, float(3), float(-1)),
  misfit("ReduceSum", "an axis too many", [float(2)], { axes: [1], keepDims: true }, float(2)),
  misfit("ReduceSum", "an axis twice", [float(2)], { axes: [0, 0], keepDims: true }, float(1)),
  misfit("Gather", "no rows", [float(), whole(2)], {}, float(2)),
  misfit("GatherElements", "more columns", [float(2, 3), whole(2, 4)], { axis: 0 }, float(2, 4)),
  misfit("GatherElements", "an axis too many", [float(2), whole(2)], { axis: 1 }, float(2)),
  misfit(
    "ScatterElements",
    "more columns",
    [float(2, 3), whole(2, 4), float(2, 4)],
    { axis: 0 },
    float(2, 3),
  ),
  misfit("ScatterElements", "other types", [float(2), whole(2), whole(2)], { axis: 0 }, float(2)),
  {
    title: "two nodes make one name",
    graph: { ...sample(), nodes: [negation("y"), negation("y")] },
    message: /\by\b/,
  },
  {
    title: "a node makes the name of an input",
    graph: { ...sample(), nodes: [negation("x"), negation("y")] },
    message: /\bx\b/,
  },
  {
    title: "a node reads its input in another shape",
    graph: { ...sample(), nodes: [{ ...negation("y", [3, 2]) }], outputs: [value("y", [3, 2])] },
    message: /\bx\b/,
  },
  {
    title: "an output is declared in another type",
    graph: { ...sample(), outputs: [{ ...value("y"), dtype: "int64" }] },
    message: /\by\b/,
  },
  {
    title: "a constant holds another type",
    graph: {
      ...sample(),
      inputs: [],
      initializers: [
        { kind: "inline", value: value("x"), tensor: int64(matrix, [1, 2, 3, 4, 5, 6]) },
      ],
    },
    message: /\bx\b/,
  },
  {
    title: "a constant has the name of an input",
    graph: {
      ...sample(),
      initializers: [{ kind: "inline", value: value("x"), tensor: float32(matrix) }],
    },
    message: /\bx\b/,
  },
];

/** One node whose inputs are the graph's. */
function misfit<K extends OpName>(
  op: K,
  title: string,
  inputs: readonly Omit<Value, "name">[],
  attributes: OpAttributes[K],
  ...outputs: readonly Omit<Value, "name">[]
): BadGraph {
  const named = inputs.map((input, i) => ({ ...input, name: `x${i}` }));
  const made = outputs.map((output, i) => ({ ...output, name: `y${i}` }));
  const node = { op, inputs: named, outputs: made, attributes } as unknown as Node;
  const graph = { name: "misfit", inputs: named, outputs: made, initializers: [], nodes: [node] };
  return { title: `${op} of ${title}`, graph, message: /Graph misfit: .*cannot take/ };
}

/** y = -x of a matrix. */
function sample(): Graph {
  return {
    name: "bad",
    inputs: [value("x")],
    outputs: [value("y")],
    initializers: [],
    nodes: [negation("y")],
  };
}

function negation(output: string, shape: readonly number[] = matrix): Node {
  return {
    op: "Neg",
    inputs: [value("x", shape)],
    outputs: [value(output, shape)],
    attributes: {},
  };
}

function value(
  name: string,
  shape: readonly number[] = matrix,
  dtype: ValueType = "float32",
): Value {
  return { name, dtype, shape };
}
