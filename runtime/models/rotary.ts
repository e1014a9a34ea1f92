// Rotary position embeddings (Su et al. 2021): the angles of each position, as tables that a graph holds.
import type { Value } from "../graph/ir.ts";
import { type Float32Tensor, float32, int64 } from "../tensor.ts";
import type { Llama3RopeScaling, LlamaConfig } from "./config.ts";
import type { BlockContext } from "./family.ts";

/** Cosines and sines [seq, headSize / 2] and positions [batch, seq], the last three inputs of `RotaryEmbedding`. */
export type RotaryTables = readonly [cos: Value, sin: Value, positions: Value];

/** Tables of positions 0 to seq - 1 of every row; `scale` multiplies what is rotated by them. */
export function rotaryTables(
  { b, config, batch, sequence }: BlockContext<LlamaConfig>,
  { name, scale }: { readonly name: string; readonly scale: number },
): RotaryTables {
  const frequencies = rotaryFrequencies(config);
  const table = (turn: (angle: number) => number): Float32Tensor =>
    float32(
      [sequence, frequencies.length],
      // Angles are rounded to float32 because Hugging Face rounds them: models were trained with that.
      Array.from({ length: sequence }, (_, position) =>
        frequencies.map((frequency) => scale * turn(Math.fround(position * frequency))),
      ).flat(),
    );
  // As Hugging Face counts by itself: from the left, padding included.
  const places = Array.from({ length: batch * sequence }, (_, i) => i % sequence);
  return [
    b.constant(table(Math.cos), `${name}/cos`),
    b.constant(table(Math.sin), `${name}/sin`),
    b.constant(int64([batch, sequence], places), "positions"),
  ];
}

/**
 * Radians by which each pair of a head turns from one position to the next: theta^(-2i / headSize), stretched
 * where the configuration says so. Rounded to float32, as Hugging Face keeps them.
 */
export function rotaryFrequencies({
  headSize,
  ropeTheta,
  ropeScaling,
}: Pick<LlamaConfig, "headSize" | "ropeTheta" | "ropeScaling">): readonly number[] {
  return Array.from({ length: headSize / 2 }, (_, i) => {
    const frequency = ropeTheta ** ((-2 * i) / headSize);
    return Math.fround(ropeScaling === null ? frequency : stretched(frequency, ropeScaling));
  });
}

/**
 * Llama 3's rule: frequencies that turn often within the first context stay, those that turn seldom are divided
 * by `factor`, and between the two limits the mean of both moves from one to the other.
 */
function stretched(frequency: number, scaling: Llama3RopeScaling): number {
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling;
  const turns = (scaling.originalPositions * frequency) / (2 * Math.PI);
  if (turns > high) return frequency;
  if (turns < low) return frequency / factor;
  const kept = (turns - low) / (high - low);
  return (1 - kept) * (frequency / factor) + kept * frequency;
}
