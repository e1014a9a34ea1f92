// What the two ends of a protocol see of data and model: tokenised examples and an opened base model.
import type { BaseModel } from "../runtime/index.ts";

/** A tokenised text; `label` is the position in the task's label list, -1 when absent. */
export interface TextExample {
  readonly tokens: readonly number[];
  readonly label: number;
}

/** The frozen base model on this machine. */
export type ModelAccess = BaseModel;
