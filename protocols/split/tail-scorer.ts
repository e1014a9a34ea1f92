// What the tail of a U-shape makes of a hold-out, on the device: accuracy of a classifier, perplexity of a language model.
import {
  type Engine,
  type Example,
  loadLoss,
  loadPredictor,
  type ModelSpec,
  type Parameters,
  predictedTokens,
  type Score,
  scoreClassification,
  type TensorBundle,
} from "../../runtime/index.ts";

/** A tail that is loaded to score. */
export interface TailScorer {
  /** FLOPs of one batch. */
  readonly flops: number;
  begin(): RunningScore;
  close(): Promise<void>;
}

/** A hold-out being scored. */
export interface RunningScore {
  /** Takes the texts of one batch; its feeds hold the states that enter the tail. */
  take(parameters: Parameters, feeds: TensorBundle, texts: readonly Example[]): Promise<void>;
  score(): Score;
}

/** Loads blocks [from, last) and the head of the spec. */
export async function loadTailScorer(
  engine: Engine,
  spec: ModelSpec,
  from: number,
): Promise<TailScorer> {
  return spec.head.kind === "lm"
    ? await languageScorer(engine, spec, from)
    : await classScorer(engine, spec, from);
}

async function classScorer(engine: Engine, spec: ModelSpec, from: number): Promise<TailScorer> {
  const predictor = await loadPredictor(engine, spec, { from });
  const begin = (): RunningScore => {
    const logits: number[] = [];
    const labels: number[] = [];
    return {
      take: async (parameters, feeds, texts) => {
        const { data, shape } = await predictor.run(parameters, feeds);
        logits.push(...data.subarray(0, texts.length * (shape[1] as number)));
        labels.push(...texts.map(({ label }) => label));
      },
      score: () => ({
        accuracy: scoreClassification(Float32Array.from(logits), labels).accuracy,
      }),
    };
  };
  return { flops: predictor.flops, begin, close: () => predictor.close() };
}

async function languageScorer(engine: Engine, spec: ModelSpec, from: number): Promise<TailScorer> {
  const loss = await loadLoss(engine, spec, { from });
  const begin = (): RunningScore => {
    let tokens = 0;
    let total = 0;
    return {
      take: async (parameters, feeds, texts) => {
        const predicted = predictedTokens(texts, spec.sequence);
        if (predicted > 0) total += (await loss.run(parameters, feeds)) * predicted;
        tokens += predicted;
      },
      score: () => ({ perplexity: Math.exp(tokens === 0 ? 0 : total / tokens) }),
    };
  };
  return { flops: loss.flops, begin, close: () => loss.close() };
}
