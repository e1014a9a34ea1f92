// How well a language model foresees texts: the mean loss of every token that has one before it.
import {
  type Engine,
  type Example,
  type ModelSpec,
  makeLanguageBatch,
  type Parameters,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { openLoss } from "./graphs.ts";

/** Of a language model. */
export interface PerplexityScore {
  /** Tokens predicted: all but the first of each text. */
  readonly tokens: number;
  /** Mean natural logarithm of the inverse probability. */
  readonly loss: number;
  readonly perplexity: number;
}

/** Mean loss over all tokens of all texts, each text by itself; throws `DATA_TEXTS_TOO_SHORT` when no text has two tokens. */
export async function measurePerplexity(
  engine: Engine,
  spec: ModelSpec,
  parameters: Parameters,
  examples: readonly Example[],
): Promise<PerplexityScore> {
  const { model, batch, sequence } = spec;
  const shape = { batch, sequence, padTokenId: model.config.padTokenId };
  const lossOf = await openLoss(engine, spec);
  let tokens = 0;
  let total = 0;
  for (let start = 0; start < examples.length; start += batch) {
    const { predicted, feeds } = makeLanguageBatch(examples.slice(start, start + batch), shape);
    if (predicted === 0) continue;
    tokens += predicted;
    total += (await lossOf.run(parameters, feeds)) * predicted;
  }
  await lossOf.close();
  if (tokens === 0) throw appErrors.error("DATA_TEXTS_TOO_SHORT", "no text has two tokens");
  return { tokens, loss: total / tokens, perplexity: Math.exp(total / tokens) };
}
