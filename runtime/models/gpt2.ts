// GPT-2 (Radford et al. 2019; Hugging Face `GPT2Model`) as a graph: embedding, blocks, final norm.
// Hidden states are [tokens, hidden] with tokens = batch * seq, so that every linear layer is one Gemm.
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import { float32, int64 } from "../tensor.ts";
import type { Gpt2Config } from "./config.ts";

/** What a block is built with. */
export interface BlockContext {
  readonly b: GraphBuilder;
  readonly config: Gpt2Config;
  readonly batch: number;
  readonly sequence: number;
  /** A checkpoint tensor by its name without `transformer.`. */
  readonly weight: (name: string) => Value;
  /** Adds the adapter of a linear layer to its output, or gives the output back. */
  readonly adapt: (path: string, x: Value, y: Value) => Value;
}

/** Token and position embeddings of `inputIds` [batch, seq] -> [tokens, hidden]. */
export function embed(
  { b, config, batch, sequence, weight }: BlockContext,
  inputIds: Value,
): Value {
  const positions = b.constant(
    int64(
      [sequence],
      Array.from({ length: sequence }, (_, i) => i),
    ),
    "positions",
  );
  const tokens = b.op("Gather", [weight("wte.weight"), inputIds], {}); // [batch, seq, hidden]
  const places = b.op("Gather", [weight("wpe.weight"), positions], {}); // [seq, hidden]
  const sum = b.op("Add", [tokens, places], {});
  return b.op("Reshape", [sum], { shape: [batch * sequence, config.hiddenSize] });
}

/**
 * The additive attention mask [batch, 1, seq, seq] of an int64 `attentionMask` [batch, seq]: 0 where a
 * token may look, about -1e9 where it may not (future or padding).
 */
export function attentionBias({ b, batch, sequence }: BlockContext, attentionMask: Value): Value {
  const causal = float32([1, 1, sequence, sequence]);
  for (let query = 0; query < sequence; query++) {
    causal.data.fill(-1e9, query * sequence + query + 1, (query + 1) * sequence);
  }
  const mask = b.op("Cast", [attentionMask], { to: "float32" });
  const padding = b.op("Mul", [b.op("Sub", [mask, b.scalar(1)], {}), b.scalar(1e9)], {});
  const keys = b.op("Reshape", [padding], { shape: [batch, 1, 1, sequence] });
  return b.op("Add", [b.constant(causal, "causal"), keys], {});
}

/** Block `index`: x + attention(norm(x)), then y + feed-forward(norm(y)); [tokens, hidden] both ways. */
export function block(context: BlockContext, index: number, x: Value, bias: Value): Value {
  const { b } = context;
  return b.scoped(`h.${index}`, () => {
    const attended = b.op(
      "Add",
      [x, attention(context, index, norm(context, `h.${index}.ln_1`, x), bias)],
      {},
    );
    const fed = feedForward(context, index, norm(context, `h.${index}.ln_2`, attended));
    return b.op("Add", [attended, fed], {}, "output");
  });
}

/** Layer normalisation with the checkpoint's scale and bias. */
export function norm({ b, config, weight }: BlockContext, path: string, x: Value): Value {
  const inputs = [x, weight(`${path}.weight`), weight(`${path}.bias`)];
  return b.op("LayerNormalization", inputs, { epsilon: config.layerNormEpsilon });
}

function attention(context: BlockContext, index: number, x: Value, bias: Value): Value {
  const { b, config, batch, sequence } = context;
  const { heads, hiddenSize } = config;
  const headSize = hiddenSize / heads;
  const projected = linear(context, `h.${index}.attn.c_attn`, x); // [tokens, 3 * hidden]
  const [q, k, v] = b.apply("Split", [projected], {
    axis: 1,
    sizes: [hiddenSize, hiddenSize, hiddenSize],
  }) as [Value, Value, Value];
  const perHead = (value: Value, perm: readonly number[]) =>
    b.op("Transpose", [b.op("Reshape", [value], { shape: [batch, sequence, heads, headSize] })], {
      perm,
    });
  const scaled = b.op("Mul", [q, b.scalar(1 / Math.sqrt(headSize))], {});
  const queries = perHead(scaled, [0, 2, 1, 3]); // [batch, heads, seq, headSize]
  const keys = perHead(k, [0, 2, 3, 1]); // [batch, heads, headSize, seq]
  const values = perHead(v, [0, 2, 1, 3]); // [batch, heads, seq, headSize]
  const scores = b.op("Add", [b.op("MatMul", [queries, keys], {}), bias], {}); // [batch, heads, seq, seq]
  const mixed = b.op("MatMul", [b.op("Softmax", [scores], {}), values], {}); // [batch, heads, seq, headSize]
  const joined = b.op("Transpose", [mixed], { perm: [0, 2, 1, 3] }); // [batch, seq, heads, headSize]
  const flat = b.op("Reshape", [joined], { shape: [batch * sequence, hiddenSize] });
  return linear(context, `h.${index}.attn.c_proj`, flat);
}

function feedForward(context: BlockContext, index: number, x: Value): Value {
  const inner = linear(context, `h.${index}.mlp.c_fc`, x); // [tokens, inner]
  return linear(context, `h.${index}.mlp.c_proj`, context.b.op("Gelu", [inner], {}));
}

/** x W + b with GPT-2's Conv1D weight [in, out], plus the layer's adapter. */
function linear({ b, weight, adapt }: BlockContext, path: string, x: Value): Value {
  const inputs = [x, weight(`${path}.weight`), weight(`${path}.bias`)];
  return adapt(path, x, b.op("Gemm", inputs, { alpha: 1, transA: false, transB: false }));
}
