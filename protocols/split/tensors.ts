// Which tensors of the base model a device of `split` computes with: those that its graphs read.
import {
  frontForwardGraph,
  logitsGraph,
  type StepGraph,
  tensorsOfGraphs,
} from "../../runtime/index.ts";
import { sketchSpec } from "../cost.ts";
import type { Assignment } from "../selection.ts";
import type { Task } from "../task.ts";
import { cutsOf } from "./cut.ts";

/** Embeddings and first blocks; in a U-shape the last blocks, the last norm and a language model's head too. */
export function splitTensors(task: Task, assignment: Assignment): ReadonlySet<string> {
  const { cutLayer, tailFrom } = cutsOf(assignment, task);
  const spec = sketchSpec(task);
  const graphs: StepGraph[] = [frontForwardGraph(spec, cutLayer)];
  if (tailFrom !== undefined) graphs.push(logitsGraph(spec, { from: tailFrom }));
  return tensorsOfGraphs(graphs.map(({ graph }) => graph));
}
