// What computes: graphs, gradients, models, sessions, training. Imports nothing of ours.
export * from "./errors.ts";
export type { Graph, Initializer, Node, NodeOf, Value, ValueType } from "./graph/ir.ts";
export type { BaseModel, WeightLocation } from "./models/base-model.ts";
export type { Gpt2Config, ModelConfig } from "./models/config.ts";
export * from "./random.ts";
export type { Engine, Session } from "./session/engine.ts";
export * from "./tensor.ts";
