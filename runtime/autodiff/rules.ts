// The VJP rule of every operator. The table is typed over the operator names: a missing rule does
// not compile. Notation: y = f(x), dy flows in, dx flows out.
import { runtimeErrors } from "../errors.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import type { Node, NodeOf, Value } from "../graph/ir.ts";
import type { OpName } from "../graph/ops.ts";
import { elementwiseRules } from "./rules-elementwise.ts";
import { matrixRules } from "./rules-matrix.ts";
import { reductionRules } from "./rules-reduction.ts";
import { shapeVjpRules } from "./rules-shape.ts";

/** What a rule sees. */
export interface VjpContext<K extends OpName> {
  readonly b: GraphBuilder;
  readonly node: NodeOf<K>;
  /** Gradient of the first output. */
  readonly dy: Value;
  /** Gradients of all outputs; undefined where nothing flows in. */
  readonly outputGradients: readonly (Value | undefined)[];
  /** Whether each input's gradient is wanted; the others need not be built. */
  readonly needs: readonly boolean[];
}

/** Builds the gradient of each input, undefined where it is not wanted or does not exist. */
export type VjpRule<K extends OpName> = (context: VjpContext<K>) => readonly (Value | undefined)[];

/** A part of the table. */
export type VjpRules<Names extends OpName> = { readonly [K in Names]: VjpRule<K> };

const rules: VjpRules<OpName> = {
  ...elementwiseRules,
  ...matrixRules,
  ...reductionRules,
  ...shapeVjpRules,
};

/** Applies the rule of a node; throws `GRADIENT_UNDEFINED` when a statistic of it is differentiated, alone or with the rest. */
export function vjpOf(
  b: GraphBuilder,
  node: Node,
  outputGradients: readonly (Value | undefined)[],
  needs: readonly boolean[],
): readonly (Value | undefined)[] {
  const dy = outputGradients.find((gradient) => gradient !== undefined);
  const statistic = node.outputs.find((_, i) => i > 0 && outputGradients[i] !== undefined);
  if (!dy || (statistic && node.op !== "Split")) {
    throw runtimeErrors.error(
      "GRADIENT_UNDEFINED",
      `${node.op} has a gradient only for its first output, not for ${statistic?.name}`,
    );
  }
  // `rules[node.op]` and `node` share their operator; the union cannot express that.
  const rule = rules[node.op] as VjpRule<OpName>;
  return rule({ b, node, dy, outputGradients, needs } as VjpContext<OpName>);
}
