// Llama (Touvron et al. 2023; Hugging Face `LlamaModel`, `Qwen2Model`, `Qwen3Model`) as a graph: rotary positions,
// grouped queries, RMS normalisation, a gated feed-forward layer.
import type { Value } from "../graph/ir.ts";
import { attentionBias } from "./attention-mask.ts";
import type { LlamaConfig } from "./config.ts";
import type { BlockContext, ModelFamily } from "./family.ts";
import { hasBias, llamaInitialValues, llamaLinears, llamaTensorShapes } from "./llama-tensors.ts";
import { pooledBias, pooledRows } from "./pooling.ts";
import { type RotaryTables, rotaryTables } from "./rotary.ts";

/** What the blocks of one graph share. */
export interface LlamaShared {
  /** [batch, 1, seq, seq], added to the scores. */
  readonly bias: Value;
  /** Tables that also divide the queries by sqrt(headSize), which saves a pass over them. */
  readonly queryTables: RotaryTables;
  readonly keyTables: RotaryTables;
}

/** Llama and its kin; what tells them apart is in the configuration. */
export const llamaFamily: ModelFamily<LlamaConfig, LlamaShared> = {
  prefix: "model.",
  linearLayout: "out-in",
  // Rotary buffers of older checkpoints, and the classification head, which Trifold replaces by its own.
  ignoredTensors: /^((layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|score\.weight)$/,
  embeddingTensor: "embed_tokens.weight",
  headTensor: (config) => (config.tiedEmbedding ? "embed_tokens.weight" : "lm_head.weight"),
  tensorShapes: llamaTensorShapes,
  initialValues: llamaInitialValues,
  blockLinears: llamaLinears,
  blockPath: (index) => `layers.${index}`,
  embed,
  shared: (context, attentionMask) => ({
    bias: attentionBias(context, attentionMask),
    queryTables: rotaryTables(context, {
      name: "queries",
      scale: 1 / Math.sqrt(context.config.headSize),
    }),
    keyTables: rotaryTables(context, { name: "keys", scale: 1 }),
  }),
  block,
  finalNorm: (context, hidden) => norm(context, "norm", hidden),
};

type Context = BlockContext<LlamaConfig>;

/** Token embeddings of `inputIds` [batch, seq] -> [tokens, hidden]. */
function embed({ b, config, batch, sequence, weight }: Context, inputIds: Value): Value {
  const tokens = b.op("Gather", [weight("embed_tokens.weight"), inputIds], {}); // [batch, seq, hidden]
  return b.op("Reshape", [tokens], { shape: [batch * sequence, config.hiddenSize] });
}

/** x + attention(norm(x)), then y + feed-forward(norm(y)). */
function block(
  context: Context,
  index: number,
  x: Value,
  shared: LlamaShared,
  pooling?: Value,
): Value {
  const { b } = context;
  const path = `layers.${index}`;
  return b.scoped(path, () => {
    const normal = norm(context, `${path}.input_layernorm`, x);
    const seen = { ...shared, bias: pooledBias(context, shared.bias, pooling), pooling };
    const mixed = attention(context, `${path}.self_attn`, normal, seen);
    const attended = b.op("Add", [pooledRows(context, x, pooling), mixed], {});
    const second = norm(context, `${path}.post_attention_layernorm`, attended);
    return b.op("Add", [attended, feedForward(context, `${path}.mlp`, second)], {}, "output");
  });
}

/** RMS normalisation over the last axis with the checkpoint's scale. */
function norm({ b, config, weight }: Context, path: string, x: Value): Value {
  const inputs = [x, weight(`${path}.weight`)];
  return b.op("RMSNormalization", inputs, { epsilon: config.rmsNormEpsilon });
}

/** What attention looks at, and for which token: for every one without `pooling` [batch, 1, seq]. */
interface Attention extends LlamaShared {
  readonly pooling: Value | undefined;
}

function attention(context: Context, path: string, x: Value, shared: Attention): Value {
  const { b, config, batch, sequence } = context;
  const { heads, keyValueHeads, headSize } = config;
  const { pooling } = shared;
  const asked = pooling ? 1 : sequence;
  // The query heads of a group lie beside each other, so a group's rows are a view: no key or value is repeated.
  const rows = (heads / keyValueHeads) * asked;
  const turned = rotated(
    context,
    `${path}.q`,
    linear(context, `${path}.q_proj`, x),
    shared.queryTables,
  );
  const q = pooledRows(context, turned, pooling); // [batch * asked, heads * headSize]
  const k = rotated(context, `${path}.k`, linear(context, `${path}.k_proj`, x), shared.keyTables);
  const v = linear(context, `${path}.v_proj`, x); // [tokens, keyValueHeads * headSize]
  const queries = b.op("Reshape", [perHead(context, q, heads, [0, 2, 1, 3])], {
    shape: [batch, keyValueHeads, rows, headSize],
  });
  const keys = perHead(context, k, keyValueHeads, [0, 2, 3, 1]); // [batch, keyValueHeads, headSize, seq]
  const values = perHead(context, v, keyValueHeads, [0, 2, 1, 3]); // [batch, keyValueHeads, seq, headSize]
  const scores = b.op("Reshape", [b.op("MatMul", [queries, keys], {})], {
    shape: [batch, heads, asked, sequence],
  });
  const shares = b.op("Softmax", [b.op("Add", [scores, shared.bias], {})], {}); // [batch, heads, asked, seq]
  const grouped = b.op("Reshape", [shares], { shape: [batch, keyValueHeads, rows, sequence] });
  const mixed = b.op("Reshape", [b.op("MatMul", [grouped, values], {})], {
    shape: [batch, heads, asked, headSize],
  });
  const joined = b.op("Transpose", [mixed], { perm: [0, 2, 1, 3] }); // [batch, asked, heads, headSize]
  const flat = b.op("Reshape", [joined], { shape: [batch * asked, heads * headSize] });
  return linear(context, `${path}.o_proj`, flat);
}

/** [tokens, heads * headSize], each head normalised where the model does so, then turned by its position. */
function rotated(context: Context, path: string, x: Value, tables: RotaryTables): Value {
  const { b, config, batch, sequence } = context;
  const { headSize } = config;
  const width = x.shape[1] as number;
  const heads = width / headSize;
  const split = { shape: [batch, sequence, heads, headSize] };
  const normal = config.queryKeyNorm
    ? norm(context, `${path}_norm`, b.op("Reshape", [x], split))
    : x;
  const whole = b.op("Reshape", [normal], { shape: [batch, sequence, width] });
  const turned = b.op("RotaryEmbedding", [whole, ...tables], { heads });
  return b.op("Reshape", [turned], { shape: [batch * sequence, width] });
}

/** The heads of `x` [rows, heads * headSize] as [batch, rows / batch, heads, headSize], permuted. */
function perHead(context: Context, x: Value, heads: number, perm: readonly number[]): Value {
  const { b, config, batch } = context;
  const shape = [batch, (x.shape[0] as number) / batch, heads, config.headSize];
  return b.op("Transpose", [b.op("Reshape", [x], { shape })], { perm });
}

/** down(silu(gate(x)) * up(x)), with silu(z) = z * sigmoid(z) (Shazeer 2020, SwiGLU). */
function feedForward(context: Context, path: string, x: Value): Value {
  const { b } = context;
  const gate = linear(context, `${path}.gate_proj`, x); // [tokens, inner]
  const silu = b.op("Mul", [gate, b.op("Sigmoid", [gate], {})], {});
  const inner = b.op("Mul", [silu, linear(context, `${path}.up_proj`, x)], {});
  return linear(context, `${path}.down_proj`, inner);
}

/** x W^T + b with a weight [out, in], plus the layer's adapter. */
function linear({ b, config, weight, adapt }: Context, path: string, x: Value): Value {
  const bias = hasBias(config, path) ? [weight(`${path}.bias`)] : [];
  const inputs = [x, weight(`${path}.weight`, x), ...bias];
  return adapt(path, x, b.op("Gemm", inputs, { alpha: 1, transA: false, transB: true }));
}
