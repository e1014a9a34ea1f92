// The tensors of a GPT-2 checkpoint: the one table of their names and shapes, and how they start.
import type { Gpt2Config } from "./config.ts";
import type { InitialValues } from "./family.ts";

/** Shape of every tensor by checkpoint name without `transformer.`; linear weights are Conv1D's [in, out]. */
export function gpt2TensorShapes(config: Gpt2Config): ReadonlyMap<string, readonly number[]> {
  const { hiddenSize, layers, positions, vocabSize } = config;
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
    for (const [path, [inSize, outSize]] of Object.entries(gpt2Linears(config))) {
      shapes.set(`h.${layer}.${path}.weight`, [inSize, outSize]);
      shapes.set(`h.${layer}.${path}.bias`, [outSize]);
    }
  }
  return shapes;
}

/** The linear layers of a block by their path in it, [in, out]. */
export function gpt2Linears({ hiddenSize, innerSize }: Gpt2Config) {
  return {
    "attn.c_attn": [hiddenSize, 3 * hiddenSize],
    "attn.c_proj": [hiddenSize, hiddenSize],
    "mlp.c_fc": [hiddenSize, innerSize],
    "mlp.c_proj": [innerSize, hiddenSize],
  } as const;
}

/**
 * As `GPT2PreTrainedModel._init_weights` draws them: normal of deviation 0.02, residual projections
 * 0.02 / sqrt(2 * layers), norms 1, biases 0.
 */
export function gpt2InitialValues({ layers }: Gpt2Config, name: string): InitialValues {
  if (name.endsWith(".bias")) return { kind: "constant", value: 0 };
  if (/(^|\.)ln_\w+\.weight$/.test(name)) return { kind: "constant", value: 1 };
  const isResidual = name.endsWith(".c_proj.weight");
  return { kind: "normal", deviation: isResidual ? 0.02 / Math.sqrt(2 * layers) : 0.02 };
}
