// What the rest of the runtime asks of a model family. A family knows its tensors and how its blocks compute;
// adapters, heads, losses, cuts and files are the same for all.
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value } from "../graph/ir.ts";
import type { ModelConfig } from "./config.ts";
import type { WeightOf } from "./weights.ts";

/** What a block is built with. */
export interface BlockContext<Config extends ModelConfig = ModelConfig> {
  readonly b: GraphBuilder;
  readonly config: Config;
  readonly batch: number;
  readonly sequence: number;
  /**
   * A checkpoint tensor by its name without the family's prefix; the only way that weights reach a graph. Linear layers
   * name their input as `after`: weights that are stored quantised are dequantised then.
   */
  readonly weight: WeightOf;
  /** Rows [from, to) of a float32 checkpoint tensor; absent where tensors are inputs. */
  readonly weightRows?: (name: string, from: number, to: number) => Value;
  /** Adds the adapter of a linear layer to its output, or gives the output back. */
  readonly adapt: (path: string, x: Value, y: Value) => Value;
}

/** A linear layer that can carry an adapter. */
export interface LinearModule {
  /** Path inside the checkpoint without the family's prefix (`h.0.attn.c_attn`). */
  readonly path: string;
  /** The same with the prefix, as PEFT names it (`transformer.h.0.attn.c_attn`). */
  readonly checkpointPath: string;
  readonly block: number;
  readonly inSize: number;
  readonly outSize: number;
}

/** Where the elements of a tensor start before any training. */
export type InitialValues =
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "normal"; readonly deviation: number };

/**
 * A family of decoders. `Shared` is what all blocks of one graph read: made once by `shared`, handed to each
 * `block`. Hidden states are [tokens, hidden] with tokens = batch * seq, so that every linear layer is one Gemm.
 */
export interface ModelFamily<Config extends ModelConfig = ModelConfig, Shared = unknown> {
  /** What checkpoints with a head put before the names of the bare model (`transformer.`). */
  readonly prefix: string;
  /** How linear weights are stored: GPT-2's Conv1D is [in, out], others [out, in]. */
  readonly linearLayout: "in-out" | "out-in";
  /** Stored tensors that no number depends on, by their name without the prefix. */
  readonly ignoredTensors: RegExp;
  /** The token embedding, [vocab, hidden]. */
  readonly embeddingTensor: string;
  /** What the language-model head multiplies with, [vocab, hidden]: the embedding when the head is tied. */
  headTensor(config: Config): string;
  /** Shape of every tensor by its name without the prefix. */
  tensorShapes(config: Config): ReadonlyMap<string, readonly number[]>;
  /** How the family's own code draws a tensor before training. */
  initialValues(config: Config, name: string): InitialValues;
  /** The linear layers of one block, by their path inside it, [in, out]. */
  blockLinears(config: Config): Readonly<Record<string, readonly [number, number]>>;
  /** Path of a block (`h.0`). */
  blockPath(index: number): string;
  /** `inputIds` [batch, seq] -> [tokens, hidden]. */
  embed(context: BlockContext<Config>, inputIds: Value): Value;
  /** Values that every block reads, of an int64 `attentionMask` [batch, seq]. */
  shared(context: BlockContext<Config>, attentionMask: Value): Shared;
  /**
   * Block `index`: [tokens, hidden] both ways. With `pooling` [batch, 1, seq], one 1 a row, it computes scores,
   * output projection and feed-forward layer for that token alone, [batch, hidden].
   */
  block(
    context: BlockContext<Config>,
    index: number,
    hidden: Value,
    shared: Shared,
    pooling?: Value,
  ): Value;
  /** Normalisation behind the last block, [rows, hidden] both ways. */
  finalNorm(context: BlockContext<Config>, hidden: Value): Value;
}
