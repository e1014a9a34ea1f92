// How a step is executed, and what it takes: the one place that chooses.

import { formatQuantity } from "../../devices/index.ts";
import {
  frontBackwardGraph,
  frontForwardGraph,
  type Graph,
  type ModelSpec,
  stepGraph,
  trainingMemoryBytes,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";

/** An execution mode and the model as it computes it. */
export interface Mode {
  readonly name: "whole-float32";
  readonly spec: ModelSpec;
}

/** What the choice depends on beside the model. */
export interface ModeOptions {
  /** Blocks of a split client; the whole step when left out. */
  readonly cut?: number;
  /** What training may add to an idle process. */
  readonly budgetBytes?: number;
}

/** The fastest mode that fits the budget, without one the fastest; throws `OPTION_INVALID` when none fits. */
export function chooseMode(spec: ModelSpec, { budgetBytes, ...options }: ModeOptions): Mode {
  const mode: Mode = { name: "whole-float32", spec };
  if (budgetBytes === undefined) return mode;
  const needed = addedMemoryBytes(mode, options);
  if (needed <= budgetBytes) return mode;
  const [needs, has] = [needed, budgetBytes].map((bytes) => formatQuantity(bytes, "bytes"));
  throw appErrors.error("OPTION_INVALID", `--memory is ${has}, mode ${mode.name} needs ${needs}`, {
    hint: "Raise --memory, lower --batch or --seq, or give --cut for a split client.",
  });
}

/** Estimate of what training in this mode adds to an idle process, in bytes. */
export function addedMemoryBytes({ spec }: Mode, { cut }: ModeOptions): number {
  return trainingMemoryBytes(trainingGraphs(spec, cut));
}

function trainingGraphs(spec: ModelSpec, cut: number | undefined): readonly Graph[] {
  if (cut === undefined) return [stepGraph(spec).graph];
  return [frontForwardGraph(spec, cut).graph, frontBackwardGraph(spec, cut).graph];
}
