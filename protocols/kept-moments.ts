// AdamW's moments from round to round, where the task keeps them. They belong to one assignment: a device that gets another
// starts afresh.
import { createHash } from "node:crypto";
import {
  type Float32Tensor,
  float32,
  momentNames,
  type OptimizerState,
  type Parameters,
  sameShape,
} from "../runtime/index.ts";
import { fromSection, intoSection } from "./bundles.ts";
import { readSection, type SectionChanges } from "./client-memory.ts";
import type { ClientContext } from "./protocol.ts";
import type { Assignment } from "./selection.ts";

/** The moments that an accepted round left for parameters of these names and shapes; undefined where it is to start afresh. */
export async function readMoments(
  { task, state, assignment }: ClientContext,
  parameters: Parameters,
): Promise<OptimizerState | undefined> {
  if (task.training.moments === "fresh") return undefined;
  const kept = (await readSection(state, "moments")) ?? new Map<string, Float32Tensor>();
  const isOurs = markOf(assignment).every((value, i) => kept.get(markName)?.data[i] === value);
  if (!isOurs) return undefined;
  const moments = momentNames.adamw.map((moment) => [moment, fromSection(moment, kept)] as const);
  const fits = moments.every(([, of]) => isLike(of, parameters));
  if (!fits) return undefined;
  return { steps: kept.get(stepsName)?.data[0] ?? 0, moments: new Map(moments) };
}

/** What a device remembers of its optimizer. */
export function rememberMoments(
  { task, assignment }: Pick<ClientContext, "task" | "assignment">,
  { steps, moments }: OptimizerState,
): SectionChanges {
  if (task.training.moments === "fresh") return {};
  const mark = markOf(assignment);
  const tensors = [...moments].flatMap(([moment, of]) => [...intoSection(moment, of)]);
  return {
    moments: new Map([
      [markName, float32([mark.length], mark)],
      [stepsName, float32([1], [steps])],
      ...tensors,
    ]),
  };
}

const markName = "assignment";
const stepsName = "steps";

/** Eight bytes that tell assignments apart. */
function markOf({ reason: _, ...assignment }: Assignment): readonly number[] {
  const sorted = Object.entries(assignment).sort(([a], [b]) => (a < b ? -1 : 1));
  const digest = createHash("sha256").update(JSON.stringify(sorted)).digest();
  return [...digest.subarray(0, 8)];
}

function isLike(moments: Parameters, parameters: Parameters): boolean {
  if (moments.size !== parameters.size) return false;
  return [...parameters].every(([name, { shape }]) =>
    sameShape(moments.get(name)?.shape ?? [], shape),
  );
}
