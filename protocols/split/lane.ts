// One device's lane of `split`: the order of its messages, from the parameters of its part to the merged
// contribution of both sides.
import { type EncodedGlobal, type GlobalSender, partOf } from "../global-model.ts";
import { decodeUpdate, outOfTurn, subset } from "../payload.ts";
import { trainedPart } from "../plan.ts";
import type { Contribution, GlobalModel, Lane } from "../protocol.ts";
import type { Task } from "../task.ts";
import { contributionWeight } from "../weight.ts";
import { crossingsOf } from "./crossing.ts";
import { type Cuts, coordinatorShapes, deviceShapes } from "./cut.ts";
import type { HalfOptions } from "./half.ts";
import { type DeviceMemory, type LaneWire, laneWire } from "./incoming.ts";
import type { SplitDown, SplitUp, Up } from "./messages.ts";
import { answerOf, type CoordinatorSide } from "./side.ts";

/** What a lane is opened with. */
export interface SplitLaneOptions extends Pick<HalfOptions, "task" | "deviceId" | "info"> {
  readonly task: Task;
  readonly cuts: Cuts;
  /** The round's global model, and how the device's part of it is sent. */
  readonly global: GlobalModel;
  readonly sender: GlobalSender;
  /** The coordinator's part of the model, from its half of the parameters. */
  readonly sideOf: (wire: LaneWire, options: HalfOptions) => CoordinatorSide;
  /** What the coordinator remembers of the device. */
  readonly memory: DeviceMemory;
  /** Told when the device has delivered. */
  readonly onDelivery: () => void;
}

/** A lane that trains its own copy of the coordinator's part from the very values that its device has of the rest. */
export function openSplitLane(options: SplitLaneOptions): Lane<SplitDown, SplitUp> {
  const { task, cuts, deviceId, info, global, sender, memory } = options;
  const shapes = trainedPart(task, deviceShapes(task, cuts));
  const names = [...coordinatorShapes(task, cuts).keys()];
  const start = subset(global.parameters, names);
  const half = { task, info, deviceId, start, deviceNames: [...shapes.keys()] };
  const known = memory.rows?.digest ?? "";
  const side = options.sideOf(laneWire(crossingsOf(task, cuts), memory), half);
  let result: Contribution | undefined;

  const deliver = (up: Up<"update">): undefined => {
    const weight = contributionWeight(task, up.fields);
    const deviceUpdate = decodeUpdate(up.tensors, shapes);
    const update = new Map([...deviceUpdate, ...side.finish(up)]);
    result = { kind: "contribution", deviceId, weight, update };
    options.onDelivery();
  };
  const front = (encoded: EncodedGlobal): SplitDown => {
    const { fields: theta, tensors } = partOf(encoded, shapes.keys());
    return { kind: "front", fields: { theta, memory: known }, tensors };
  };
  return {
    first: front(sender.first),
    resumable: false,
    receive: async (up) => {
      if (result) throw outOfTurn(`split: "${up.kind}" came after the round's update`);
      if (up.kind === "catchUp") return front(sender.whole());
      return up.kind === "update" ? deliver(up) : answerOf(side, up);
    },
    finish: async () => result,
    close: async () => {},
  };
}
