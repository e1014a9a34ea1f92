// The tensors of a GPT-2 checkpoint: the one table of their names and shapes, and random ones.
import { randomStream } from "../random.ts";
import { type Float32Tensor, float32, type TensorBundle } from "../tensor.ts";
import type { Gpt2Config } from "./config.ts";

/** Shape of every tensor by checkpoint name without `transformer.`; linear weights are Conv1D's [in, out]. */
export function gpt2TensorShapes(config: Gpt2Config): ReadonlyMap<string, readonly number[]> {
  const { hiddenSize, innerSize, layers, positions, vocabSize } = config;
  const shapes = new Map<string, readonly number[]>([
    ["wte.weight", [vocabSize, hiddenSize]],
    ["wpe.weight", [positions, hiddenSize]],
    ["ln_f.weight", [hiddenSize]],
    ["ln_f.bias", [hiddenSize]],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    for (const norm of ["ln_1", "ln_2"]) {
      shapes.set(`h.${layer}.${norm}.weight`, [hiddenSize]);
      shapes.set(`h.${layer}.${norm}.bias`, [hiddenSize]);
    }
    const linear = (path: string, inSize: number, outSize: number) => {
      shapes.set(`h.${layer}.${path}.weight`, [inSize, outSize]);
      shapes.set(`h.${layer}.${path}.bias`, [outSize]);
    };
    linear("attn.c_attn", hiddenSize, 3 * hiddenSize);
    linear("attn.c_proj", hiddenSize, hiddenSize);
    linear("mlp.c_fc", hiddenSize, innerSize);
    linear("mlp.c_proj", innerSize, hiddenSize);
  }
  return shapes;
}

/**
 * Weights before any training, as `GPT2PreTrainedModel._init_weights` draws them: normal of deviation
 * 0.02, residual projections 0.02 / sqrt(2 * layers), norms 1, biases 0. Equal seeds give equal bytes.
 */
export function randomGpt2(config: Gpt2Config, seed: number): TensorBundle<Float32Tensor> {
  const tensors = new Map<string, Float32Tensor>();
  for (const [name, shape] of gpt2TensorShapes(config)) {
    const tensor = float32(shape);
    fillInitial(tensor.data, name, config, seed);
    tensors.set(name, tensor);
  }
  return tensors;
}

function fillInitial(data: Float32Array, name: string, config: Gpt2Config, seed: number): void {
  if (name.endsWith(".bias")) return;
  if (/(^|\.)ln_\w+\.weight$/.test(name)) {
    data.fill(1);
    return;
  }
  const isResidual = name.endsWith(".c_proj.weight");
  const deviation = isResidual ? 0.02 / Math.sqrt(2 * config.layers) : 0.02;
  const stream = randomStream("gpt2", seed, name);
  for (let i = 0; i < data.length; i++) data[i] = deviation * stream.normal();
}
