// The step graph of pretraining: a whole language model whose every tensor is trained, so the
// checkpoint's tensors are graph inputs instead of constants.
import { gradients, lossSeed } from "../autodiff/backward.ts";
import { graphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import type { ModelConfig } from "./config.ts";
import { familyOf } from "./families.ts";
import type { BlockContext } from "./family.ts";
import { finalStates, headMatrix, languageLogits, languageLoss } from "./heads.ts";
import type { StepGraph } from "./partition.ts";

/**
 * Loss and the gradient of every tensor of the checkpoint. Inputs beside the tensors: `input_ids` and
 * `attention_mask` [batch, seq], `labels` and `weights` [batch * seq].
 */
export function pretrainingGraph(
  config: ModelConfig,
  { batch, sequence }: { readonly batch: number; readonly sequence: number },
): StepGraph {
  const b = graphBuilder();
  const family = familyOf(config);
  const tensors = new Map<string, Value>();
  for (const [name, shape] of family.tensorShapes(config))
    tensors.set(name, b.input(name, "float32", shape));
  const context: BlockContext = {
    b,
    config,
    batch,
    sequence,
    weight: (name) => tensors.get(name) as Value,
    adapt: (_path, _x, y) => y,
  };
  const tokens = batch * sequence;
  const shared = family.shared(context, b.input("attention_mask", "int64", [batch, sequence]));
  let hidden = family.embed(context, b.input("input_ids", "int64", [batch, sequence]));
  for (let index = 0; index < config.layers; index++) {
    hidden = family.block(context, index, hidden, shared);
  }
  const states = finalStates(context, hidden);
  const matrix = headMatrix(context);
  const logits = languageLogits(context, states, matrix);
  const labels = b.input("labels", "int64", [tokens]);
  const weights = b.input("weights", "float32", [tokens]);
  const loss = languageLoss(context, { states, matrix, pieces: [logits], labels, weights });
  const found = gradients(b, [lossSeed(b, loss)], [...tensors.values()]);
  for (const value of [loss, ...found]) b.output(value);
  const named = new Map([...tensors.keys()].map((name, i) => [name, (found[i] as Value).name]));
  const blocks = { from: 0, to: config.layers };
  return { graph: b.build("pretraining"), blocks, loss: loss.name, gradients: named };
}
