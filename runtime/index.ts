// What computes: graphs, gradients, models, sessions, training. Imports nothing of ours.
export * from "./errors.ts";
export * from "./files.ts";
export { type GraphBuilder, graphBuilder } from "./graph/builder.ts";
export { graphFlops } from "./graph/flops.ts";
export type { Graph, Initializer, Node, NodeOf, Value, ValueType } from "./graph/ir.ts";
export { peakIntermediateBytes, valueBytes } from "./graph/memory.ts";
export { referenceEngine } from "./graph/reference.ts";
export * from "./models/adapters.ts";
export type {
  BaseModel,
  QuantisedFormat,
  WeightFormat,
  WeightLocation,
} from "./models/base-model.ts";
export type { Gpt2Config, LlamaConfig, ModelConfig } from "./models/config.ts";
export { familyOf, linearModules, randomTensors, tensorShapes } from "./models/families.ts";
export type { LinearModule, ModelFamily } from "./models/family.ts";
export * from "./models/lora.ts";
export * from "./models/partition.ts";
export * from "./models/pretrained.ts";
export { pretrainingGraph } from "./models/pretraining.ts";
export { quantiseModel, sketchQuantised } from "./models/quantise.ts";
export {
  readParameterFile,
  readSafetensors,
  type SafetensorsFile,
} from "./models/safetensors.ts";
export type { StoredTensor } from "./models/safetensors-header.ts";
export { writeSafetensors, writeStoredTensors } from "./models/safetensors-writer.ts";
export { readSpecialTokens, type SpecialTokens } from "./models/special-tokens.ts";
export {
  openTensorFiles,
  tensorBytes,
  tensorHashes,
  tensorsOfGraphs,
} from "./models/tensor-files.ts";
export { openTokenizer, type Tokenizer } from "./models/tokenizer.ts";
export * from "./random.ts";
export type { Engine, Session } from "./session/engine.ts";
export { type OrtEngineOptions, ortEngine } from "./session/ort.ts";
export * from "./session/providers.ts";
export { awaitComputations } from "./session/worker-channel.ts";
export * from "./tensor.ts";
export * from "./train/batches.ts";
export * from "./train/data.ts";
export type { MaskKey } from "./train/dropout.ts";
export * from "./train/evaluate.ts";
export * from "./train/generate.ts";
export * from "./train/language-batches.ts";
export * from "./train/length-buckets.ts";
export * from "./train/memory.ts";
export * from "./train/modes.ts";
export * from "./train/optimizer.ts";
export * from "./train/passes.ts";
export * from "./train/prefix-cache.ts";
export * from "./train/schedule.ts";
export * from "./train/score.ts";
export {
  type LossFunction,
  loadLoss,
  loadPredictor,
  loadStep,
  type Predictor,
  type StepResult,
  type StepRunner,
  type TrainingStep,
} from "./train/steps.ts";
export * from "./train/trainer.ts";
