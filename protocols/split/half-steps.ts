// The steps of a coordinator's half in one lane: which one comes, and whether its gradients are numbers.
import { checkFinite, type Parameters, squaredNorms } from "../../runtime/index.ts";
import { outOfTurn } from "../payload.ts";
import type { Task } from "../task.ts";
import type { Up } from "./messages.ts";

/** Counts the steps of a lane. */
export interface StepCount {
  readonly made: number;
  count(): void;
  /** Throws `PROTOCOL_OUT_OF_TURN` unless `step` is the one to come. */
  check(step: number): void;
  /** Throws `PROTOCOL_OUT_OF_TURN` unless the device made as many. */
  checkAll(up: Up<"update">): void;
}

/** No step yet. */
export function stepCount({ training: { localSteps } }: Task): StepCount {
  let made = 0;
  return {
    get made() {
      return made;
    },
    count: () => {
      made += 1;
    },
    check: (step) => {
      const expected = made < localSteps ? `step ${made} was expected` : "the round has no more";
      if (step !== made || made >= localSteps)
        throw outOfTurn(`split: step ${step} came, ${expected}`);
    },
    checkAll: ({ fields: { steps } }) => {
      if (steps === made) return;
      throw outOfTurn(`split: the device made ${steps} steps, the coordinator ${made}`);
    },
  };
}

/** Squared norms of the gradients of a step; throws as `checkFinite` does. */
export function checkedNorms(
  step: number,
  gradients: Parameters,
  loss = 0,
): ReadonlyMap<string, number> {
  const squares = squaredNorms(gradients);
  checkFinite(step, loss, squares);
  return squares;
}
