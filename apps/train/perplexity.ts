// How well a language model foresees texts: the mean loss of every token that has one before it.
import {
  type Engine,
  type Example,
  type ModelSpec,
  makeLanguageBatch,
  type Parameters,
  stepGraph,
  type Tensor,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";

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
  const { graph, loss = "" } = stepGraph(spec, { wantsGradients: false });
  const session = await engine.load(graph);
  let tokens = 0;
  let total = 0;
  for (let start = 0; start < examples.length; start += spec.batch) {
    const { padTokenId } = spec.model.config;
    const chosen = examples.slice(start, start + spec.batch);
    const batch = makeLanguageBatch(chosen, { ...sizesOf(spec), padTokenId });
    if (batch.predicted === 0) continue;
    const available = new Map<string, Tensor>([...parameters, ...batch.feeds]);
    const feeds = graph.inputs.map(({ name }) => [name, available.get(name) as Tensor] as const);
    const mean = (await session.run(new Map(feeds), [loss])).get(loss)?.data[0];
    tokens += batch.predicted;
    total += Number(mean) * batch.predicted;
  }
  await session.close();
  if (tokens === 0) throw appErrors.error("DATA_TEXTS_TOO_SHORT", "no text has two tokens");
  return { tokens, loss: total / tokens, perplexity: Math.exp(total / tokens) };
}

function sizesOf({ batch, sequence }: ModelSpec) {
  return { batch, sequence };
}
