// One device's lane of `split`: the order of its messages, from the front's parameters to the merged
// contribution of front and tail.
import { type EncodedGlobal, type GlobalSender, partOf } from "../global-model.ts";
import { decodeExactly, outOfTurn, subset } from "../payload.ts";
import { shapesOf } from "../plan.ts";
import type { Contribution, GlobalModel, Lane, RoundInfo } from "../protocol.ts";
import type { Task } from "../task.ts";
import { contributionWeight } from "../weight.ts";
import type { SplitDown, SplitUp } from "./messages.ts";
import { type Tail, tailTrainer } from "./tail.ts";

/** What a lane is opened with. */
export interface SplitLaneOptions {
  readonly task: Task;
  readonly tail: Tail;
  readonly cutLayer: number;
  readonly deviceId: string;
  readonly info: RoundInfo;
  /** The round's global model, and how its front is sent. */
  readonly global: GlobalModel;
  readonly sender: GlobalSender;
}

/** A lane that trains its own copy of the tail from the very values that its device has of the front. */
export function openSplitLane(options: SplitLaneOptions): Lane<SplitDown, SplitUp> {
  const { task, tail, cutLayer, deviceId, info, global, sender } = options;
  const { layers } = task.manifest.config;
  const frontShapes = shapesOf(task, { from: 0, to: cutLayer });
  const tailNames = [...shapesOf(task, { from: cutLayer, to: layers }).keys()];
  const start = subset(global.parameters, tailNames);
  const frontNames = [...frontShapes.keys()];
  const trainer = tailTrainer({ task, tail, info, deviceId, start, frontNames });
  let result: Contribution | undefined;

  const deliver = (up: Extract<SplitUp, { kind: "update" }>): undefined => {
    const weight = contributionWeight(task, up.fields);
    const frontUpdate = decodeExactly(up.tensors, frontShapes);
    const update = new Map([...frontUpdate, ...trainer.finish(up)]);
    result = { kind: "contribution", deviceId, weight, update };
  };
  const front = (encoded: EncodedGlobal): SplitDown => ({
    kind: "front",
    ...partOf(encoded, frontNames),
  });
  return {
    first: front(sender.first),
    resumable: false,
    receive: async (up) => {
      if (result) throw outOfTurn(`split: "${up.kind}" came after the round's update`);
      if (up.kind === "catchUp") return front(sender.whole());
      if (up.kind === "activations") return trainer.train(up);
      if (up.kind === "evaluate") return trainer.evaluate(up);
      return deliver(up);
    },
    finish: async () => result,
    close: async () => {},
  };
}
