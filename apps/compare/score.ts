// What a model is worth, as one number that is either better when higher or better when lower.

/** A number and what it is. */
export interface Score {
  readonly metric: "accuracy" | "perplexity";
  readonly value: number;
}

/** The score in a record that holds either of them. */
export function scoreIn(record: {
  readonly accuracy?: number | undefined;
  readonly perplexity?: number | undefined;
}): Score {
  const { accuracy, perplexity } = record;
  if (perplexity !== undefined) return { metric: "perplexity", value: perplexity };
  return { metric: "accuracy", value: accuracy ?? Number.NaN };
}

/** Whether `a` is the better score. */
export function isBetter(metric: Score["metric"], a: number, b: number): boolean {
  return metric === "accuracy" ? a > b : a < b;
}
