// Logits of the token behind a text, on graphs that grow with it: a token costs one forward pass of the shortest that holds it.
import {
  type Engine,
  type ModelSpec,
  makeBatch,
  type Parameters,
  type Predictor,
} from "../../runtime/index.ts";
import { openPredictor } from "./graphs.ts";

/** Foresees tokens with one loaded graph at a time. */
export interface NextToken {
  /** Logits [vocab] of the token behind these, as many as the model has positions at most. */
  next(tokens: readonly number[]): Promise<Float32Array>;
  close(): Promise<void>;
}

/** Opens nothing before the first token. */
export function nextTokenOf(
  engine: Engine,
  spec: Omit<ModelSpec, "batch" | "sequence">,
  parameters: Parameters,
): NextToken {
  const { positions, padTokenId } = spec.model.config;
  let loaded: { readonly sequence: number; readonly predictor: Predictor } | undefined;
  const open = async (sequence: number) => {
    await loaded?.predictor.close();
    loaded = undefined;
    const predictor = await openPredictor(
      engine,
      { ...spec, batch: 1, sequence },
      { pooled: true },
    );
    loaded = { sequence, predictor };
    return loaded;
  };
  return {
    next: async (tokens) => {
      const sequence = lengthFor(tokens.length, positions);
      const { predictor } = loaded?.sequence === sequence ? loaded : await open(sequence);
      const shape = { batch: 1, sequence, padTokenId };
      const { feeds } = makeBatch([{ tokens, label: -1 }], shape);
      return (await predictor.run(parameters, feeds)).data;
    },
    close: async () => loaded?.predictor.close(),
  };
}

/** 32, 64, 128, ... up to the model's positions. */
function lengthFor(tokens: number, positions: number): number {
  let length = 32;
  while (length < tokens) length *= 2;
  return Math.min(length, positions);
}
