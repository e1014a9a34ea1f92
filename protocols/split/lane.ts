// One device's lane of `split`: the order of its messages, from the parameters of its part to the merged
// contribution of both sides.
import type { Parameters } from "../../runtime/index.ts";
import { decodeGlobal, type EncodedGlobal } from "../global-model.ts";
import { decodeExactly, outOfTurn, subset } from "../payload.ts";
import type { Contribution, Lane } from "../protocol.ts";
import type { Task } from "../task.ts";
import { contributionWeight } from "../weight.ts";
import { type Cuts, coordinatorShapes, deviceShapes } from "./cut.ts";
import type { HalfOptions } from "./half.ts";
import type { SplitDown, SplitUp, Up } from "./messages.ts";
import { answerOf, type CoordinatorSide } from "./side.ts";

/** What a lane is opened with. */
export interface SplitLaneOptions extends Pick<HalfOptions, "task" | "deviceId" | "info"> {
  readonly task: Task;
  readonly cuts: Cuts;
  /** The round's global model as every device of the round gets it. */
  readonly published: EncodedGlobal;
  /** The task's seeded start. */
  readonly initial: Parameters;
  /** The coordinator's part of the model, from its half of the parameters. */
  readonly sideOf: (options: HalfOptions) => CoordinatorSide;
}

/** A lane that trains its own copy of the coordinator's part from the very values a whole device would decode. */
export function openSplitLane(options: SplitLaneOptions): Lane<SplitDown, SplitUp> {
  const { task, cuts, deviceId, info, published, initial, sideOf } = options;
  const shapes = deviceShapes(task, cuts);
  const names = [...coordinatorShapes(task, cuts).keys()];
  const encoded = { ...published, tensors: subset(published.tensors, names) };
  const start = decodeGlobal(encoded, subset(initial, names));
  const side = sideOf({ task, info, deviceId, start, deviceNames: [...shapes.keys()] });
  let result: Contribution | undefined;

  const deliver = (up: Up<"update">): undefined => {
    const weight = contributionWeight(task, up.fields);
    const deviceUpdate = decodeExactly(up.tensors, shapes);
    const update = new Map([...deviceUpdate, ...side.finish(up)]);
    result = { kind: "contribution", deviceId, weight, update };
  };
  return {
    first: { ...published, kind: "front", tensors: subset(published.tensors, shapes.keys()) },
    resumable: false,
    receive: async (up) => {
      if (result) throw outOfTurn(`split: "${up.kind}" came after the round's update`);
      return up.kind === "update" ? deliver(up) : answerOf(side, up);
    },
    finish: async () => result,
    close: async () => {},
  };
}
