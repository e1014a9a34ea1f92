// GPT-2 (Radford et al. 2019; Hugging Face `GPT2Model`) as a graph: embedding, blocks, final norm.
import type { Value } from "../graph/ir.ts";
import { int64 } from "../tensor.ts";
import { attentionBias } from "./attention-mask.ts";
import type { Gpt2Config } from "./config.ts";
import type { BlockContext, ModelFamily } from "./family.ts";
import { gpt2InitialValues, gpt2Linears, gpt2TensorShapes } from "./gpt2-tensors.ts";
import { pooledBias, pooledRows } from "./pooling.ts";

/** GPT-2: learned positions, layer normalisation, one matrix for queries, keys and values, a tied head. */
export const gpt2Family: ModelFamily<Gpt2Config, Value> = {
  prefix: "transformer.",
  linearLayout: "in-out",
  // Causal-mask buffers of older checkpoints, and heads that Trifold replaces by its own.
  ignoredTensors: /^(h\.\d+\.attn\.(bias|masked_bias)|score\.weight|multiple_choice_head\..+)$/,
  embeddingTensor: "wte.weight",
  headTensor: () => "wte.weight",
  tensorShapes: gpt2TensorShapes,
  initialValues: gpt2InitialValues,
  blockLinears: gpt2Linears,
  blockPath: (index) => `h.${index}`,
  embed,
  shared: attentionBias,
  block,
  finalNorm: (context, hidden) => norm(context, "ln_f", hidden),
};

type Context = BlockContext<Gpt2Config>;

/** Token and position embeddings of `inputIds` [batch, seq] -> [tokens, hidden]. */
function embed({ b, config, batch, sequence, weight }: Context, inputIds: Value): Value {
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

/** x + attention(norm(x)), then y + feed-forward(norm(y)). */
function block(context: Context, index: number, x: Value, bias: Value, pooling?: Value): Value {
  const { b } = context;
  return b.scoped(`h.${index}`, () => {
    const normal = norm(context, `h.${index}.ln_1`, x);
    const seen = { bias: pooledBias(context, bias, pooling), pooling };
    const mixed = attention(context, index, normal, seen);
    const attended = b.op("Add", [pooledRows(context, x, pooling), mixed], {});
    const fed = feedForward(context, index, norm(context, `h.${index}.ln_2`, attended));
    return b.op("Add", [attended, fed], {}, "output");
  });
}

/** What attention looks at, and for which token: for every one without `pooling` [batch, 1, seq]. */
interface Attention {
  readonly bias: Value;
  readonly pooling: Value | undefined;
}

/** Layer normalisation with the checkpoint's scale and bias. */
function norm({ b, config, weight }: Context, path: string, x: Value): Value {
  const inputs = [x, weight(`${path}.weight`), weight(`${path}.bias`)];
  return b.op("LayerNormalization", inputs, { epsilon: config.layerNormEpsilon });
}

function attention(context: Context, index: number, x: Value, { bias, pooling }: Attention): Value {
  const { b, config, batch, sequence } = context;
  const { heads, hiddenSize } = config;
  const headSize = hiddenSize / heads;
  const projected = linear(context, `h.${index}.attn.c_attn`, x); // [tokens, 3 * hidden]
  const [q, k, v] = b.apply("Split", [projected], {
    axis: 1,
    sizes: [hiddenSize, hiddenSize, hiddenSize],
  }) as [Value, Value, Value];
  const perHead = (value: Value, perm: readonly number[], rows = sequence) =>
    b.op("Transpose", [b.op("Reshape", [value], { shape: [batch, rows, heads, headSize] })], {
      perm,
    });
  const asked = pooling ? 1 : sequence;
  const scaled = b.op("Mul", [pooledRows(context, q, pooling), b.scalar(headSize ** -0.5)], {});
  const queries = perHead(scaled, [0, 2, 1, 3], asked); // [batch, heads, asked, headSize]
  const keys = perHead(k, [0, 2, 3, 1]); // [batch, heads, headSize, seq]
  const values = perHead(v, [0, 2, 1, 3]); // [batch, heads, seq, headSize]
  const scores = b.op("Add", [b.op("MatMul", [queries, keys], {}), bias], {}); // [batch, heads, asked, seq]
  const mixed = b.op("MatMul", [b.op("Softmax", [scores], {}), values], {}); // [batch, heads, asked, headSize]
  const joined = b.op("Transpose", [mixed], { perm: [0, 2, 1, 3] }); // [batch, asked, heads, headSize]
  const flat = b.op("Reshape", [joined], { shape: [batch * asked, hiddenSize] });
  return linear(context, `h.${index}.attn.c_proj`, flat);
}

function feedForward(context: Context, index: number, x: Value): Value {
  const inner = linear(context, `h.${index}.mlp.c_fc`, x); // [tokens, inner]
  return linear(context, `h.${index}.mlp.c_proj`, context.b.op("Gelu", [inner], {}));
}

/** x W + b with GPT-2's Conv1D weight [in, out], plus the layer's adapter. */
function linear({ b, weight, adapt }: Context, path: string, x: Value): Value {
  const inputs = [x, weight(`${path}.weight`, x), weight(`${path}.bias`)];
  return adapt(path, x, b.op("Gemm", inputs, { alpha: 1, transA: false, transB: false }));
}
