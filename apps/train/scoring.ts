// What trained parameters are worth on examples that they have not seen.
import {
  type Engine,
  type Example,
  type ModelSpec,
  type Parameters,
  predictAll,
  scoreClassification,
} from "../../runtime/index.ts";
import { openPredictor } from "./graphs.ts";
import type { TrainingReport } from "./options.ts";
import { measurePerplexity } from "./perplexity.ts";

/** What is scored, with what. */
export interface Scoring {
  readonly engine: Engine;
  readonly spec: ModelSpec;
  readonly parameters: Parameters;
  readonly examples: readonly Example[];
}

/** The scores of a hold-out; none without examples. */
export type HoldOutScore = Pick<TrainingReport, "accuracy" | "macroF1" | "majority" | "perplexity">;

/** Accuracy of a classifier or perplexity of a language model. */
export async function scoreHoldOut(scoring: Scoring): Promise<HoldOutScore> {
  const { engine, spec, parameters, examples } = scoring;
  if (examples.length === 0) return {};
  if (spec.head.kind === "lm") {
    const { perplexity } = await measurePerplexity(engine, spec, parameters, examples);
    return { perplexity };
  }
  const labels = examples.map(({ label }) => label);
  const { accuracy, macroF1 } = scoreClassification(await logitsOf(scoring), labels);
  return { accuracy, macroF1, majority: majorityShare(labels) };
}

/** Logits [examples, classes] of a classifier. */
export async function logitsOf({ engine, spec, parameters, examples }: Scoring) {
  const predictor = await openPredictor(engine, spec);
  const { batch, sequence, model } = spec;
  const shape = { batch, sequence, padTokenId: model.config.padTokenId };
  const logits = await predictAll(predictor, parameters, examples, shape);
  await predictor.close();
  return logits;
}

/** Share of the most frequent label. */
export function majorityShare(labels: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return Math.max(0, ...counts.values()) / Math.max(1, labels.length);
}
