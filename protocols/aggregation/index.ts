// How contributions become the next global model.
export {
  applyUpdate,
  compareDeviceIds,
  type MeanAccumulator,
  meanAccumulator,
  weightedMean,
} from "./mean.ts";
