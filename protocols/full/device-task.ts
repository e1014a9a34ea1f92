// A task as one full device works on it: its assignment may give it a lower rank and an encoding of its own.
import { loraOfRank } from "../aggregation/index.ts";
import type { Task } from "../task.ts";
import type { Way } from "../way.ts";

/** The task with the rank (at most the task's, at the same scale) and the update's encoding of that way. */
export function deviceTask(task: Task, { rank, encoding }: Way): Task {
  const { adapter, full } = task;
  return {
    ...task,
    adapter: rank === undefined ? adapter : loraOfRank(adapter, Math.min(rank, adapter.rank)),
    full: encoding === undefined ? full : { ...full, encoding },
  };
}
