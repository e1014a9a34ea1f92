// One device's lane of `split`: the order of its messages, from the front's parameters to the merged
// contribution of front and tail.
import { encodeGlobal } from "../global-model.ts";
import { decodeExactly, subset } from "../payload.ts";
import { initialOf, shapesOf } from "../plan.ts";
import type { Contribution, GlobalModel, Lane, RoundInfo, ServerContext } from "../protocol.ts";
import type { Assignment } from "../selection.ts";
import { contributionWeight } from "../weight.ts";
import { outOfTurn } from "./cut.ts";
import type { SplitDown, SplitUp } from "./messages.ts";
import { type Tail, tailTrainer } from "./tail.ts";

/** What a lane is opened with. */
export interface SplitLaneOptions {
  readonly context: ServerContext;
  readonly tail: Tail;
  readonly cutLayer: number;
  readonly assignment: Assignment;
  readonly info: RoundInfo;
  readonly global: GlobalModel;
}

/** A lane that trains its own copy of the tail from the round's global parameters. */
export function openSplitLane(options: SplitLaneOptions): Lane<SplitDown, SplitUp> {
  const { context, tail, cutLayer, assignment, info, global } = options;
  const { task } = context;
  const frontShapes = shapesOf(task, { from: 0, to: cutLayer });
  const tailShapes = shapesOf(task, { from: cutLayer, to: task.manifest.config.layers });
  const trainer = tailTrainer(task, tail, subset(global.parameters, tailShapes.keys()), info);
  const initialFront = subset(initialOf(task), frontShapes.keys());
  const front = subset(global.parameters, frontShapes.keys());
  let result: Contribution | undefined;

  const finish = (up: Extract<SplitUp, { kind: "update" }>): undefined => {
    const weight = contributionWeight(task, up.fields);
    const frontUpdate = decodeExactly(up.tensors, frontShapes);
    const update = new Map([...frontUpdate, ...trainer.finish(up)]);
    result = { kind: "contribution", deviceId: assignment.deviceId, weight, update };
  };
  return {
    first: { kind: "front", ...encodeGlobal(front, initialFront, task.full.encoding) },
    resumable: false,
    receive: async (up) => {
      if (result) throw outOfTurn(`"${up.kind}" after the round's update`);
      if (up.kind === "activations") return trainer.train(up);
      if (up.kind === "evaluate") return trainer.evaluate(up);
      return finish(up);
    },
    finish: async () => result,
    close: async () => {},
  };
}
