// Where a kd device's own model goes on.
import { type Parameters, sameShape } from "../../runtime/index.ts";
import { isTrained } from "../aggregation/index.ts";
import { readSection, type SectionChanges } from "../client-memory.ts";
import { isOfModel, marked } from "../model-mark.ts";
import { initialOf } from "../plan.ts";
import type { ClientState } from "../protocol.ts";
import type { Task } from "../task.ts";

/**
 * The parameters to start from: the global ones that the device decoded in another framework since its last kd round, else its
 * own of that round, else the seeded start. Those of another model than the device has now are none.
 */
export async function startOf(task: Task, state: ClientState): Promise<Parameters> {
  const initial = initialOf(task);
  for (const section of ["theta", "local"] as const) {
    const held = await readSection(state, section);
    if (held === undefined || !isOfModel(task, held)) continue;
    const found = [...initial].map(([name, { shape, data }]) => {
      // What the task's method leaves at its start is in no message and in no memory.
      const isHeld = isTrained(task.aggregation, name) || section === "local";
      const tensor = isHeld ? held.get(name) : { shape, data, dtype: "float32" as const };
      return tensor && sameShape(tensor.shape, shape) ? ([name, tensor] as const) : undefined;
    });
    if (found.every((entry) => entry !== undefined)) return new Map(found);
  }
  return initial;
}

/** What a round leaves: the device's own parameters. Global ones are forgotten, so that those found later are newer. */
export function endOf(task: Task, parameters: Parameters): SectionChanges {
  return { local: marked(task, parameters), theta: "drop" };
}
