// One device's lane of `split`: the order of its messages, from the parameters of its part to the merged
// contribution of both sides.
import { type EncodedGlobal, type GlobalSender, partOf } from "../global-model.ts";
import { decodeUpdate, outOfTurn, subset } from "../payload.ts";
import { trainedPart } from "../plan.ts";
import type { Contribution, GlobalModel, Lane } from "../protocol.ts";
import type { Task } from "../task.ts";
import { contributionWeight } from "../weight.ts";
import type { Crossings } from "./crossing.ts";
import { type Cuts, coordinatorShapes, deviceShapes } from "./cut.ts";
import { type HalfOptions, ownHalf } from "./half.ts";
import { laneWire } from "./incoming.ts";
import type { EndMemory } from "./memories.ts";
import type { SplitDown, SplitUp, Up } from "./messages.ts";
import { sharedHalf } from "./shared-half.ts";
import type { SharedPart } from "./shared-part.ts";
import { answerOf, type CoordinatorSide, type SideOptions } from "./side.ts";

/** What a lane is opened with. */
export interface SplitLaneOptions extends Pick<HalfOptions, "task" | "deviceId" | "info"> {
  readonly task: Task;
  readonly cuts: Cuts;
  /** The round's global model, and how the device's part of it is sent. */
  readonly global: GlobalModel;
  readonly sender: GlobalSender;
  /** The coordinator's part of the model, from its half of the parameters. */
  readonly sideOf: (options: SideOptions) => CoordinatorSide;
  /** What the device trains with others; without it, it has a half of its own. */
  readonly shared?: SharedPart | undefined;
  readonly crossings: Crossings;
  /** What the coordinator remembers of the device. */
  readonly memory: EndMemory;
  /** Keeps it for the lanes behind this one. */
  readonly remember: () => Promise<void>;
}

/** A lane that trains the coordinator's part, a copy of its own or one for all, from the very values that its device has of the rest. */
export function openSplitLane(options: SplitLaneOptions): Lane<SplitDown, SplitUp> {
  const { task, cuts, deviceId, info, global, sender, memory, shared } = options;
  const shapes = trainedPart(task, deviceShapes(task, cuts));
  const names = [...coordinatorShapes(task, cuts).keys()];
  const start = subset(global.parameters, names);
  const known = memory.sent?.digest ?? "";
  const trained = { task, info, deviceId, start, deviceNames: [...shapes.keys()] };
  const half = shared ? sharedHalf(shared, trained) : ownHalf(trained);
  const wire = laneWire(options.crossings, memory);
  const side = options.sideOf({ task, wire, half });
  let result: (() => Contribution) | undefined;

  const deliver = async (up: Up<"update">): Promise<undefined> => {
    const weight = contributionWeight(task, up.fields);
    const deviceUpdate = decodeUpdate(up.tensors, shapes);
    // Before the delivery counts: a lane that was accepted has left what the next one begins with.
    await options.remember();
    const ownUpdate = side.finish(up);
    // Where the part is shared, every device contributes the same update of it. With weights n_i the mean of those is that one
    // update, with the weight of the sum of all n_i against what other devices contribute.
    result = () => {
      const update = new Map([...deviceUpdate, ...ownUpdate()]);
      return { kind: "contribution", deviceId, weight, update };
    };
  };
  const front = (encoded: EncodedGlobal): SplitDown => {
    const { fields: theta, tensors } = partOf(encoded, shapes.keys());
    return { kind: "front", fields: { theta, memory: known }, tensors };
  };
  const take = async (up: SplitUp): Promise<SplitDown | undefined> => {
    if (result) throw outOfTurn(`split: "${up.kind}" came after the round's update`);
    if (up.kind === "catchUp") return front(sender.whole());
    return up.kind === "update" ? deliver(up) : answerOf(side, up);
  };
  let work: Promise<unknown> = Promise.resolve();
  return {
    first: front(sender.first),
    resumable: false,
    ...(shared ? { endsWithRound: true } : {}),
    receive: (up) => {
      const answer = take(up);
      work = answer.catch(() => undefined);
      return answer;
    },
    finish: async () => result?.(),
    // A device's next lane begins behind this one's work, or it would have two pieces of work at the engine.
    close: async () => {
      side.close();
      await work;
    },
  };
}
