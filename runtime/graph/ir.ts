// The intermediate representation: a static-shape graph of ONNX operators in execution order.
// Building, differentiating, interpreting and exporting all speak it; it knows no ONNX bytes.
import type { Tensor } from "../tensor.ts";
import type { OpAttributes, OpName } from "./ops.ts";

/** Element type of a value inside a graph. */
export type ValueType = "float32" | "int64" | "int8" | "int4" | "bool";

/** A named tensor of a graph with its static shape. */
export interface Value {
  readonly name: string;
  readonly dtype: ValueType;
  readonly shape: readonly number[];
}

/** One application of an ONNX operator; generic over the operator so that attributes are typed. */
export interface NodeOf<K extends OpName> {
  readonly op: K;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly attributes: OpAttributes[K];
}

/** Any node, tagged by `op`. */
export type Node = { [K in OpName]: NodeOf<K> }[OpName];

/** Where the bytes of a constant value are. */
export type Initializer =
  | { readonly kind: "inline"; readonly value: Value; readonly tensor: Tensor }
  | {
      /** Little-endian elements at `offsetBytes` of a weights file, mapped rather than read; int4 two to a byte, the first low. */
      readonly kind: "external";
      readonly value: Value;
      readonly file: string;
      readonly offsetBytes: number;
      readonly lengthBytes: number;
    };

/** A complete graph: nodes are in execution order, names are unique. */
export interface Graph {
  readonly name: string;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly initializers: readonly Initializer[];
  readonly nodes: readonly Node[];
}

/** Bits of one element of each type. */
export const elementBits = { float32: 32, int64: 64, int8: 8, int4: 4, bool: 8 } as const;

/** The inputs whose numbers a node's outputs depend on: all but what a DequantizeLinear only waits for. */
export function dataInputs(node: Node): readonly Value[] {
  return node.op === "DequantizeLinear" ? node.inputs.slice(0, 2) : node.inputs;
}
