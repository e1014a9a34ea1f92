// The tensors of a Llama checkpoint: the one table of their names and shapes, and how they start.
import type { LlamaConfig } from "./config.ts";
import type { InitialValues } from "./family.ts";

/** Shape of every tensor by checkpoint name without `model.`; linear weights are [out, in]. */
export function llamaTensorShapes(config: LlamaConfig): ReadonlyMap<string, readonly number[]> {
  const { hiddenSize, headSize, layers, vocabSize } = config;
  const shapes = new Map<string, readonly number[]>([
    ["embed_tokens.weight", [vocabSize, hiddenSize]],
    ["norm.weight", [hiddenSize]],
  ]);
  if (!config.tiedEmbedding) shapes.set("lm_head.weight", [vocabSize, hiddenSize]);
  for (let layer = 0; layer < layers; layer++) {
    const path = `layers.${layer}`;
    shapes.set(`${path}.input_layernorm.weight`, [hiddenSize]);
    shapes.set(`${path}.post_attention_layernorm.weight`, [hiddenSize]);
    if (config.queryKeyNorm) {
      shapes.set(`${path}.self_attn.q_norm.weight`, [headSize]);
      shapes.set(`${path}.self_attn.k_norm.weight`, [headSize]);
    }
    for (const [name, [inSize, outSize]] of Object.entries(llamaLinears(config))) {
      shapes.set(`${path}.${name}.weight`, [outSize, inSize]);
      if (hasBias(config, name)) shapes.set(`${path}.${name}.bias`, [outSize]);
    }
  }
  return shapes;
}

/** The linear layers of a block by their path in it, [in, out]. */
export function llamaLinears(config: LlamaConfig) {
  const { hiddenSize, innerSize, heads, keyValueHeads, headSize } = config;
  return {
    "self_attn.q_proj": [hiddenSize, heads * headSize],
    "self_attn.k_proj": [hiddenSize, keyValueHeads * headSize],
    "self_attn.v_proj": [hiddenSize, keyValueHeads * headSize],
    "self_attn.o_proj": [heads * headSize, hiddenSize],
    "mlp.gate_proj": [hiddenSize, innerSize],
    "mlp.up_proj": [hiddenSize, innerSize],
    "mlp.down_proj": [innerSize, hiddenSize],
  } as const;
}

/** Whether the checkpoint has a bias for a linear layer, by its path inside or outside its block. */
export function hasBias(config: LlamaConfig, path: string): boolean {
  if (path.includes("mlp.")) return config.feedForwardBias;
  return path.endsWith("o_proj") ? config.outputBias : config.attentionBias;
}

/** As `LlamaPreTrainedModel._init_weights` draws them: normal of deviation 0.02, norms 1, biases 0. */
export function llamaInitialValues(_config: LlamaConfig, name: string): InitialValues {
  if (name.endsWith(".bias")) return { kind: "constant", value: 0 };
  if (name.endsWith("norm.weight")) return { kind: "constant", value: 1 };
  return { kind: "normal", deviation: 0.02 };
}
