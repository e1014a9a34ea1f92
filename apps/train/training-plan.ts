// Which texts every step of a training sees, and how they become feeds: a function of the data, the settings and the seed,
// so that a resumed run sees what it would have seen.
import {
  type BatchShape,
  bucketedIndices,
  bucketOf,
  type Example,
  type HeadSettings,
  lengthBuckets,
  makeBatch,
  makeLanguageBatch,
  predictedTokens,
  type StepFeeds,
} from "../../runtime/index.ts";
import type { PaddingShares } from "./options.ts";

/** What a plan is made from. */
export interface PlanOptions {
  readonly examples: readonly Example[];
  readonly head: HeadSettings;
  readonly batchSize: number;
  /** Batches of an optimizer step. */
  readonly accumulate: number;
  /** Optimizer steps; `epochs` counts when left out. */
  readonly steps?: number;
  readonly epochs: number;
  readonly sequence: number;
  readonly padTokenId: number;
  readonly seed: number;
}

/** The batches of a training. */
export interface TrainingPlan {
  readonly steps: number;
  /** Lengths of the graphs that the batches need, ascending. */
  readonly lengths: readonly number[];
  readonly padding: PaddingShares;
  /** Feeds of a step, counted from 0. */
  feeds(step: number): StepFeeds;
  /** Tokens of a step's texts, padding not counted. */
  tokens(step: number): number;
}

/** Plans batches of texts of like length. */
export function planTraining(options: PlanOptions): TrainingPlan {
  const { examples, batchSize, accumulate, sequence, seed } = options;
  const perStep = batchSize * accumulate;
  const steps = options.steps ?? Math.ceil((options.epochs * examples.length) / perStep);
  const lengths = lengthBuckets(sequence);
  const batches = bucketedIndices({
    buckets: examples.map(({ tokens }) => bucketOf(lengths, tokens.length)),
    batchSize,
    count: steps * accumulate,
    key: [seed, "train"],
  }).map((indices) => plannedBatch(indices, examples, lengths));
  const groupOf = (step: number) => batches.slice(step * accumulate, (step + 1) * accumulate);
  return {
    steps,
    lengths: [...new Set(batches.map(({ length }) => length))].sort((a, b) => a - b),
    padding: paddingOf(batches, { batchSize, sequence }),
    feeds: (step) => feedsOf(groupOf(step), options),
    tokens: (step) => sumOf(groupOf(step), ({ tokens }) => tokens),
  };
}

interface PlannedBatch {
  readonly texts: readonly Example[];
  /** Length of the graph it runs on. */
  readonly length: number;
  readonly tokens: number;
}

function plannedBatch(
  indices: readonly number[],
  examples: readonly Example[],
  lengths: readonly number[],
): PlannedBatch {
  const texts = indices.map((i) => examples[i] as Example);
  const longest = Math.max(...texts.map(({ tokens }) => tokens.length));
  return {
    texts,
    length: bucketOf(lengths, longest),
    tokens: sumOf(texts, ({ tokens }) => tokens.length),
  };
}

function feedsOf(
  group: readonly PlannedBatch[],
  { head, batchSize, sequence, padTokenId }: PlanOptions,
): StepFeeds {
  const texts = group.flatMap((batch) => batch.texts);
  const counted = head.kind === "lm" ? predictedTokens(texts, sequence) : texts.length;
  const make = head.kind === "lm" ? makeLanguageBatch : makeBatch;
  const parts = group.map((batch) => {
    const shape: BatchShape = { batch: batchSize, sequence: batch.length, padTokenId, counted };
    return make(batch.texts, shape).feeds;
  });
  const [only] = parts;
  return parts.length === 1 && only ? only : parts;
}

function paddingOf(
  batches: readonly PlannedBatch[],
  { batchSize, sequence }: { readonly batchSize: number; readonly sequence: number },
): PaddingShares {
  const tokens = sumOf(batches, (batch) => batch.tokens);
  const share = (places: number) => (places === 0 ? 0 : 1 - tokens / places);
  return {
    plain: share(batches.length * batchSize * sequence),
    bucketed: share(sumOf(batches, ({ length }) => batchSize * length)),
  };
}

function sumOf<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((sum, item) => sum + of(item), 0);
}
