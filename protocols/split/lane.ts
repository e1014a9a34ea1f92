// One device's lane of `split`: the order of its messages, from the front's parameters to the merged
// contribution of front and tail.
import type { Parameters } from "../../runtime/index.ts";
import { decodeGlobal, type EncodedGlobal } from "../global-model.ts";
import { decodeExactly, outOfTurn, subset } from "../payload.ts";
import { shapesOf } from "../plan.ts";
import type { Contribution, Lane, RoundInfo } from "../protocol.ts";
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
  /** The round's global model as every device of the round gets it. */
  readonly published: EncodedGlobal;
  /** The task's seeded start. */
  readonly initial: Parameters;
}

/** A lane that trains its own copy of the tail from the very values a whole device would decode. */
export function openSplitLane(options: SplitLaneOptions): Lane<SplitDown, SplitUp> {
  const { task, tail, cutLayer, deviceId, info, published, initial } = options;
  const { layers } = task.manifest.config;
  const frontShapes = shapesOf(task, { from: 0, to: cutLayer });
  const tailNames = [...shapesOf(task, { from: cutLayer, to: layers }).keys()];
  const encodedTail = { ...published, tensors: subset(published.tensors, tailNames) };
  const start = decodeGlobal(encodedTail, subset(initial, tailNames));
  const frontNames = [...frontShapes.keys()];
  const trainer = tailTrainer({ task, tail, info, deviceId, start, frontNames });
  let result: Contribution | undefined;

  const deliver = (up: Extract<SplitUp, { kind: "update" }>): undefined => {
    const weight = contributionWeight(task, up.fields);
    const frontUpdate = decodeExactly(up.tensors, frontShapes);
    const update = new Map([...frontUpdate, ...trainer.finish(up)]);
    result = { kind: "contribution", deviceId, weight, update };
  };
  return {
    first: { ...published, kind: "front", tensors: subset(published.tensors, frontShapes.keys()) },
    resumable: false,
    receive: async (up) => {
      if (result) throw outOfTurn(`split: "${up.kind}" came after the round's update`);
      if (up.kind === "activations") return trainer.train(up);
      if (up.kind === "evaluate") return trainer.evaluate(up);
      return deliver(up);
    },
    finish: async () => result,
    close: async () => {},
  };
}
