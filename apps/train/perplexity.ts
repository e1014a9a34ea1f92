// `evaluate` of a language model, and the hold-out of `train`: the mean loss of every token that has one before it.
import {
  type Engine,
  type Example,
  type LanguageScore,
  languageLossOf,
  type ModelSpec,
  type Parameters,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { openLoss } from "./graphs.ts";

/** Mean loss over all tokens of all texts, each text by itself; throws `DATA_TEXTS_TOO_SHORT` when no text has two tokens. */
export async function measurePerplexity(
  engine: Engine,
  spec: ModelSpec,
  parameters: Parameters,
  examples: readonly Example[],
): Promise<LanguageScore> {
  const { model, batch, sequence } = spec;
  const shape = { batch, sequence, padTokenId: model.config.padTokenId };
  const lossOf = await openLoss(engine, spec);
  const score = await languageLossOf(lossOf, parameters, examples, { shape });
  await lossOf.close();
  if (score.tokens > 0) return score;
  throw appErrors.error("DATA_TEXTS_TOO_SHORT", "no text has two tokens");
}
