// What a model is worth on examples that it has not seen: accuracy of a classifier, perplexity of a language model.
import type { ModelSpec } from "../models/partition.ts";
import type { Engine } from "../session/engine.ts";
import type { Parameters } from "../tensor.ts";
import type { BatchShape, Example } from "./batches.ts";
import { predictAll, scoreClassification } from "./evaluate.ts";
import { makeLanguageBatch } from "./language-batches.ts";
import { type LossFunction, loadLoss, loadPredictor, type Predictor } from "./steps.ts";

/** The one figure that tells models of a task apart; flat, so that files hold it under its name. */
export type Score =
  | {
      /** Share of the examples whose label has the largest logit, 0..1. */
      readonly accuracy: number;
      readonly perplexity?: undefined;
    }
  | {
      /** exp of the mean loss of a predicted token; 1 is perfect. */
      readonly perplexity: number;
      readonly accuracy?: undefined;
    };

/** A loaded model that is scored again and again. */
export interface Scorer {
  /** Multiply-add FLOPs of scoring so many examples. */
  flopsOf(examples: number): number;
  /** Rejects with the signal's reason between batches. */
  run(parameters: Parameters, examples: readonly Example[], signal?: AbortSignal): Promise<Score>;
  close(): Promise<void>;
}

/** Loads what scores the spec's head: logits of a classifier, the loss of a language model. */
export async function loadScorer(engine: Engine, spec: ModelSpec): Promise<Scorer> {
  return spec.head.kind === "lm"
    ? languageScorer(await loadLoss(engine, spec), spec)
    : classifierScorer(await loadPredictor(engine, spec), spec);
}

/** Scores by the largest logit. The predictor stays the caller's to use; `close` closes it. */
export function classifierScorer(predictor: Predictor, spec: ModelSpec): Scorer {
  const shape = shapeOf(spec);
  return {
    ...costOf(predictor, shape),
    run: async (parameters, examples, signal) => {
      const source: Pick<Predictor, "run"> = {
        run: async (current, feeds) => {
          signal?.throwIfAborted();
          return await predictor.run(current, feeds);
        },
      };
      const logits = await predictAll(source, parameters, examples, shape);
      const labels = examples.map(({ label }) => label);
      return { accuracy: scoreClassification(logits, labels).accuracy };
    },
  };
}

function languageScorer(lossOf: LossFunction, spec: ModelSpec): Scorer {
  const shape = shapeOf(spec);
  return {
    ...costOf(lossOf, shape),
    run: async (parameters, examples, signal) => {
      const { perplexity } = await languageLossOf(lossOf, parameters, examples, { shape, signal });
      return { perplexity };
    },
  };
}

/** How well a language model foresees texts. */
export interface LanguageScore {
  /** Tokens predicted: all but the first of each text. */
  readonly tokens: number;
  /** Mean natural logarithm of the inverse probability; 0 without tokens. */
  readonly loss: number;
  readonly perplexity: number;
}

/** Mean loss over all tokens of all texts, each text by itself. */
export async function languageLossOf(
  lossOf: Pick<LossFunction, "run">,
  parameters: Parameters,
  examples: readonly Example[],
  { shape, signal }: { readonly shape: BatchShape; readonly signal?: AbortSignal | undefined },
): Promise<LanguageScore> {
  let tokens = 0;
  let total = 0;
  for (let start = 0; start < examples.length; start += shape.batch) {
    signal?.throwIfAborted();
    const part = examples.slice(start, start + shape.batch);
    const { predicted, feeds } = makeLanguageBatch(part, shape);
    if (predicted === 0) continue;
    tokens += predicted;
    total += (await lossOf.run(parameters, feeds)) * predicted;
  }
  const loss = tokens === 0 ? 0 : total / tokens;
  return { tokens, loss, perplexity: Math.exp(loss) };
}

function shapeOf({ model, batch, sequence }: ModelSpec): BatchShape {
  return { batch, sequence, padTokenId: model.config.padTokenId };
}

function costOf(
  loaded: Pick<Predictor, "flops" | "close">,
  { batch }: BatchShape,
): Pick<Scorer, "flopsOf" | "close"> {
  return {
    flopsOf: (examples) => loaded.flops * Math.ceil(examples / batch),
    close: () => loaded.close(),
  };
}
