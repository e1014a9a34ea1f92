// How contributions become the next global model.
export {
  applyUpdate,
  compareDeviceIds,
  type MeanAccumulator,
  meanAccumulator,
  weightedMean,
} from "./mean.ts";
export type { AggregationOptions, ServerOptimizerOptions } from "./options.ts";
export { type ServerStep, serverRate, serverStep } from "./server-optimizer.ts";
