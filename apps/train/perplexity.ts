// How well a language model foresees texts: the mean loss of every token that has one before it.
import {
  type Engine,
  type Example,
  float32,
  int64,
  type ModelSpec,
  makeBatch,
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
    const batch = batchOf(spec, examples.slice(start, start + spec.batch));
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

/** Every position's label is the next token; positions without one weigh nothing. */
function batchOf({ model, batch, sequence }: ModelSpec, examples: readonly Example[]) {
  const { padTokenId } = model.config;
  const { feeds } = makeBatch(examples, { batch, sequence, padTokenId });
  const labels = new BigInt64Array(batch * sequence);
  const weights = new Float32Array(batch * sequence);
  const lengths = examples.map(({ tokens }) => Math.min(tokens.length, sequence));
  const predicted = lengths.reduce((sum, length) => sum + Math.max(0, length - 1), 0);
  examples.forEach(({ tokens }, row) => {
    for (let i = 0; i + 1 < (lengths[row] as number); i++) {
      labels[row * sequence + i] = BigInt(tokens[i + 1] as number);
      weights[row * sequence + i] = 1 / predicted;
    }
  });
  const all = new Map<string, Tensor>([
    ...feeds,
    ["labels", int64([batch * sequence], labels)],
    ["weights", float32([batch * sequence], weights)],
  ]);
  return { predicted, feeds: all };
}
