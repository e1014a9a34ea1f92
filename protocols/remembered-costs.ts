// What the protocols' estimates came to. Each builds the graphs that a device would run, and revisions ask for those of every
// way of every device after every round.
import type { CostOptions, Payload, Protocol } from "./protocol.ts";
import type { RoundCost } from "./selection.ts";
import type { Task } from "./task.ts";

/** The protocol's estimate, made once for equal tasks and options. */
export function costOf(
  protocol: Protocol<Payload, Payload>,
  task: Task,
  options: CostOptions,
): RoundCost {
  const known = costs.get(protocol) ?? new Map<string, RoundCost>();
  costs.set(protocol, known);
  const key = JSON.stringify([task, options]);
  const cost = known.get(key) ?? protocol.estimate(task, options);
  // Allowances follow measured links, so there may always be another one.
  if (known.size >= mostKnown) known.clear();
  known.set(key, cost);
  return cost;
}

const mostKnown = 1000;
const costs = new WeakMap<object, Map<string, RoundCost>>();
