// How contributions become the next global model.
export {
  type Aggregator,
  aggregationBytes,
  aggregationPlaces,
  aggregators,
  openAggregation,
  requireAggregationMemory,
} from "./aggregators.ts";
export { bufferedMean, type StaleContribution, stalenessWeight } from "./buffered.ts";
export { compareDeviceIds } from "./contributions.ts";
export { leadingRanks, loraOfRank } from "./factors.ts";
export { meanAccumulator, type UpdateAccumulator, weightedMean } from "./mean.ts";
export { isTrained } from "./methods.ts";
export type { AggregationOptions, ServerOptimizerOptions } from "./options.ts";
export {
  type AggregatedRound,
  type AggregationStart,
  aggregateBuffer,
  aggregateRound,
  openRoundAggregation,
  type RoundAggregation,
} from "./round.ts";
export { type ServerStep, serverRate, serverStep } from "./server-optimizer.ts";
export { type ScaledContribution, type StackedRound, stackRound } from "./stack.ts";
export { applyUpdate } from "./update.ts";
