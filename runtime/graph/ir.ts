// The intermediate representation: a static-shape graph of ONNX operators in execution order.
// Building, differentiating, interpreting and exporting all speak it; it knows no ONNX bytes.
import type { Tensor } from "../tensor.ts";
import type { OpAttributes, OpName } from "./ops.ts";

/** Element type of a value inside a graph. */
export type ValueType = "float32" | "int64" | "bool";

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
      /** Little-endian float32 at `offsetBytes` of a weights file, mapped rather than read. */
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
