// Where a kd device's own model goes on.
import type { Parameters } from "../../runtime/index.ts";
import { readSection } from "../client-memory.ts";
import { initialOf } from "../plan.ts";
import type { ClientState } from "../protocol.ts";
import type { Task } from "../task.ts";

/** The device's own parameters as its last kd round left them, or the seeded start. */
export async function startOf(task: Task, state: ClientState): Promise<Parameters> {
  return (await readSection(state, "local")) ?? initialOf(task);
}
